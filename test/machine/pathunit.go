package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// The files of the package's examples that the machine of point 8 has.
const (
	pathUnit       = "kubelet-identity.path"
	rotatesExample = "systemd/rotation-kubelet.yaml"
)

// rotating is the story of a machine whose kubelet is started by a path unit and rotates its certificate by itself.
type rotating struct {
	*bed
	c        *cluster
	m        *machine
	token    string
	pid      string
	identity time.Time // when the certificate was on disk
	first    string    // serial numbers
	second   string
}

func (b *bed) tellOfPathUnit(ctx context.Context, next func(number, title string) *point) {
	s := &rotating{bed: b, c: b.shared}
	p := next("8", "The examples "+pathUnit+" and rotation-kubelet.yaml: a path unit starts the kubelet, which rotates by itself")
	if !p.do(ctx, "prepare the machine", s.prepare) {
		return
	}
	p.machines = append(p.machines, s.m)
	s.waits(ctx, p)
	s.starts(ctx, p)
	s.leaves(ctx, p)
	s.stops(ctx, p)
	s.rebooted(ctx, p)
	s.longOff(ctx, p)
	p.check(ctx, "nothing has failed, and no log has the token", func(ctx context.Context) (string, error) {
		return s.m.isQuiet(ctx, s.token, strings.Split(s.token, ".")[1])
	})
}

func (s *rotating) prepare(ctx context.Context) (err error) {
	if s.m, err = s.machine(ctx, "rotating"); err != nil {
		return err
	}
	userData, err := s.c.admin(ctx, "token", "create", "--cloud-init", "--kubelet=false", "--install", packageFile, "--node", s.m.name, "--groups", byHand, "--ttl", "1h")
	if err != nil {
		return err
	}
	if s.token = bootstrapToken.FindString(userData); s.token == "" {
		return errors.New("there is no token in the user data")
	}
	config, err := s.example(rotatesExample)
	if err != nil {
		return err
	}
	config, err = fill(config, map[string]string{"10.0.0.1:6443": s.c.Endpoint, "sha256:" + strings.Repeat("0", 64): s.c.ServingCA.Pin()})
	if err != nil {
		return err
	}
	if userData, err = withConfig(userData, config); err != nil {
		return err
	}
	starter, err := s.example("systemd/" + pathUnit)
	if err != nil {
		return err
	}
	err = errors.Join(s.m.addKubelet(s.c.ControlPlane, kubelet{rotates: true}), s.m.write("/etc/systemd/system/"+pathUnit, starter, 0o644),
		s.m.copyIn(s.older, packageFile), s.m.seed(userData))
	if err != nil {
		return err
	}
	_, err = command(ctx, "systemctl", "--root="+s.m.root, "enable", pathUnit)
	return err
}

// withConfig returns user data with another configuration of the agent's.
func withConfig(userData, config string) (string, error) {
	var document map[string]any
	if err := yaml.Unmarshal([]byte(userData), &document); err != nil {
		return "", fmt.Errorf("the user data: %w", err)
	}
	files, _ := document["write_files"].([]any)
	for _, entry := range files {
		if file, ok := entry.(map[string]any); ok && file["path"] == configFile {
			file["content"] = config
			text, err := yaml.Marshal(document)
			return "#cloud-config\n" + string(text), err
		}
	}
	return "", errors.New("the user data has no " + configFile)
}

// kubeletStarted returns when the kubelet's program was run for the last time; never: a zero time.
func (m *machine) kubeletStarted(ctx context.Context) (time.Time, error) {
	text, err := m.property(ctx, "kubelet.service", "ExecMainStartTimestampMonotonic")
	if err != nil {
		return time.Time{}, err
	}
	microseconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || microseconds == 0 {
		return time.Time{}, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(time.Duration(microseconds)*time.Microsecond - time.Duration(now.Nano())), nil
}

// waits looks at the machine before it has its identity.
func (s *rotating) waits(ctx context.Context, p *point) {
	p.check(ctx, "the machine boots, and its agent waits for an approval", func(ctx context.Context) (string, error) {
		if err := s.m.boot(ctx); err != nil {
			return "", err
		}
		return s.m.says(ctx, approval.String())
	})
	p.check(ctx, "cloud-init is done, "+pathUnit+" waits, and the kubelet's program has not been run", func(ctx context.Context) (string, error) {
		said, err := s.m.run(ctx, "cloud-init", "status", "--wait")
		if err != nil {
			return said, err
		}
		waits, err := s.m.property(ctx, pathUnit, "SubState")
		if err != nil {
			return "", err
		}
		started, err := s.m.kubeletStarted(ctx)
		if err == nil && (waits != "waiting" || !started.IsZero()) {
			err = fmt.Errorf("%s is %s, and the kubelet was started at %s", pathUnit, waits, started)
		}
		return pathUnit + " is " + waits, err
	})
}

// starts has the cluster answer, with a certificate of which little is left, so that the kubelet rotates at once.
func (s *rotating) starts(ctx context.Context, p *point) {
	p.check(ctx, "the cluster answers, with a certificate that is near its end: the path unit starts the kubelet, and it registers its Node", func(ctx context.Context) (_ string, err error) {
		if s.pid, err = s.m.property(ctx, unit, "MainPID"); err != nil {
			return "", err
		}
		if s.first, err = s.answer(ctx); err != nil {
			return "", err
		}
		var started time.Time
		err = eventually(ctx, func() (err error) {
			if started, err = s.m.kubeletStarted(ctx); err == nil && started.IsZero() {
				err = errors.New("the kubelet was not started")
			}
			return err
		})
		if err != nil {
			return "", err
		}
		if started.Before(s.identity) {
			return "", fmt.Errorf("the kubelet was started at %s, before the certificate was written at %s", started, s.identity)
		}
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		seen, err := s.c.registered(waiting, s.m)
		return fmt.Sprintf("the kubelet was started %.1f s after the certificate was written\n%s", started.Sub(s.identity).Seconds(), seen), err
	})
	p.check(ctx, "the kubelet rotates: it asks for a certificate of its own", func(ctx context.Context) (string, error) {
		if err := eventually(ctx, func() error { return s.m.isValid(s.first) }); err != nil {
			return "", err
		}
		certificate, err := s.m.identity()
		if err != nil {
			return "", err
		}
		s.second = fmt.Sprintf("%x", certificate.SerialNumber)
		seen, err := s.askedBy(ctx, "nodejoin kubelet")
		return fmt.Sprintf("%s\nserial %s, then %s, until %s", seen, s.first, s.second, certificate.NotAfter.Format(time.RFC3339)), err
	})
}

// answer signs the machine's request, waits until the certificate is on its disk, and returns the serial number.
func (s *rotating) answer(ctx context.Context) (string, error) {
	requests, err := s.c.requests(ctx, s.m.name)
	if err == nil && len(requests) != 1 {
		err = fmt.Errorf("there are %d requests instead of one", len(requests))
	}
	if err != nil {
		return "", err
	}
	serial, err := s.c.sign(ctx, &requests[0], 11*time.Hour, 55*time.Minute)
	if err != nil {
		return "", err
	}
	return serial, eventually(ctx, func() error {
		target, err := os.Readlink(filepath.Join(s.m.root, current))
		if err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(s.m.root, certDir, filepath.Base(target)))
		if err == nil {
			s.identity = info.ModTime()
		}
		return err
	})
}

// sign answers a request in the place of the cluster's signer, with a certificate that is some time old and has some time left.
// It returns the serial number.
func (c *cluster) sign(ctx context.Context, object *certificates.CertificateSigningRequest, age, left time.Duration) (string, error) {
	block, _ := pem.Decode(object.Spec.Request)
	if block == nil {
		return "", errors.New("there is no PEM in the request " + object.Name)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: request.Subject,
		NotBefore: time.Now().Add(-age), NotAfter: time.Now().Add(left),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ClientCA.Cert, request.PublicKey, c.ClientCA.Key)
	if err != nil {
		return "", err
	}
	requests := c.Client().CertificatesV1().CertificateSigningRequests()
	object.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if object, err = requests.UpdateStatus(ctx, object, meta.UpdateOptions{}); err != nil {
		return "", err
	}
	object.Status.Conditions = append(object.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "ByHand",
	})
	_, err = requests.UpdateApproval(ctx, object.Name, object, meta.UpdateOptions{})
	return fmt.Sprintf("%x", template.SerialNumber), err
}

var (
	byKubelet      = regexp.MustCompile(`(?m)^rotation +by the kubelet$`)
	bootstrapToken = regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)
)

// leaves looks at what the agent does with a certificate that is not its own.
func (s *rotating) leaves(ctx context.Context, p *point) {
	p.check(ctx, "the agent, the same process still, takes the kubelet's certificate for this node's, and for the kubelet's to rotate", func(ctx context.Context) (string, error) {
		err := eventually(ctx, func() error {
			text, err := s.m.run(ctx, "nodejoin", "status")
			if err == nil && (!byKubelet.MatchString(text) || !strings.Contains(strings.ToLower(text), s.second)) {
				err = errors.New(text)
			}
			return err
		})
		if err != nil {
			return "", err
		}
		return s.untouched(ctx)
	})
	p.check(ctx, "a deleted kubeconfig is put back by the agent, and the certificate stays the kubelet's", func(ctx context.Context) (string, error) {
		seen, err := s.m.putBack(ctx, kubeconfig)
		if err != nil {
			return seen, err
		}
		if _, err := s.m.run(ctx, "systemctl", "reload", unit); err != nil {
			return "", err
		}
		same, err := s.untouched(ctx)
		return seen + "\n" + same, err
	})
	s.c.checkAsked(ctx, p, s.m, 2)
}

// untouched returns an error unless one process of the agent's has run all the time, and the certificate is that of the kubelet.
func (s *rotating) untouched(ctx context.Context) (string, error) {
	line, err := s.m.says(ctx, s.m.valid())
	if err != nil {
		return line, err
	}
	state, err := s.m.run(ctx, "systemctl", "show", "--property=MainPID,NRestarts", unit)
	if err != nil {
		return "", err
	}
	serial, err := s.m.serial()
	if err == nil && (serial != s.second || !strings.Contains(state, "MainPID="+s.pid+"\n") || !strings.Contains(state, "NRestarts=0\n")) {
		err = fmt.Errorf("the certificate is %s, and not %s, or the process is not %s any more: %s", serial, s.second, s.pid, state)
	}
	return fmt.Sprintf("serial %s, %s\n%s", serial, strings.Join(strings.Fields(state), " "), line), err
}

// stops stops the kubelet in the way that the path unit's comment warns of, and in the one that it names.
func (s *rotating) stops(ctx context.Context, p *point) {
	p.check(ctx, "a kubelet that is stopped alone is started again, and one that is stopped with the path unit is not", func(ctx context.Context) (string, error) {
		before, err := s.m.property(ctx, "kubelet.service", "InvocationID")
		if err != nil {
			return "", err
		}
		if _, err := s.m.run(ctx, "systemctl", "stop", "kubelet.service"); err != nil {
			return "", err
		}
		err = eventually(ctx, func() error {
			after, err := s.m.property(ctx, "kubelet.service", "InvocationID")
			if err == nil && (after == "" || after == before) {
				err = errors.New("it is not started again")
			}
			return err
		})
		if err != nil {
			return "", err
		}
		if _, err := s.m.run(ctx, "systemctl", "stop", pathUnit, "kubelet.service"); err != nil {
			return "", err
		}
		state, err := s.m.shell(ctx, "systemctl is-active "+pathUnit+" kubelet.service; test -z \"$(systemctl list-jobs --no-legend "+pathUnit+" kubelet.service)\"")
		if err == nil && state != "inactive\ninactive\n" {
			err = errors.New("the two are " + state)
		}
		return "", err
	})
}

// isOrdered returns an error when units of a boot wait for each other in a circle: systemd then leaves out one of them, and not
// always the same. What it says of that itself comes before there is a journal.
func (m *machine) isOrdered(ctx context.Context) error {
	said, err := m.shell(ctx, "systemd-analyze verify default.target 2>&1 || true")
	if err == nil && (strings.Contains(said, "ordering cycle") || strings.Contains(said, "Failed to") || strings.Contains(said, "not found")) { // it has not looked, perhaps
		err = errors.New(said)
	}
	return err
}

// rebooted looks whether a boot goes as the first one did: then, the identity is there from the beginning.
func (s *rotating) rebooted(ctx context.Context, p *point) {
	p.check(ctx, "the machine reboots: the path unit starts the kubelet again, and no unit waits for itself", func(ctx context.Context) (string, error) {
		if err := s.m.reboot(ctx); err != nil {
			return "", err
		}
		if _, err := s.m.says(ctx, s.m.valid()); err != nil {
			return "", err
		}
		if err := s.m.isOrdered(ctx); err != nil {
			return "", err
		}
		if serial, err := s.m.serial(); err != nil || serial != s.second {
			return "", errors.Join(err, fmt.Errorf("the certificate is %s, and not %s", serial, s.second))
		}
		active, err := s.m.isActive(ctx, pathUnit)
		return active + ", and systemd-analyze verify finds no ordering cycle", err
	})
	s.c.checkKubeletBack(ctx, p, s.m, time.Now())
	s.c.checkAsked(ctx, p, s.m, 2)
}

// longOff has the machine come back to an expired certificate. The path unit starts the kubelet with it, which can do nothing
// until the agent has joined anew.
func (s *rotating) longOff(ctx context.Context, p *point) {
	var line string
	p.check(ctx, "switched off past the certificate's expiry, it boots, and the agent waits for an approval again", func(ctx context.Context) (_ string, err error) {
		if err := s.m.powerOff(ctx); err != nil {
			return "", err
		}
		if err := age(s.c, s.m, -24*time.Hour); err != nil {
			return "", err
		}
		if err := s.m.boot(ctx); err != nil {
			return "", err
		}
		line, err = s.m.says(ctx, approval.String())
		return line, err
	})
	approved := time.Now()
	p.check(ctx, "approved, the agent joins anew", func(ctx context.Context) (string, error) {
		if _, err := s.c.Kubectl(ctx, strings.Fields(approval.FindStringSubmatch(line)[1])...); err != nil {
			return "", err
		}
		return s.m.says(ctx, s.m.valid())
	})
	s.c.checkKubeletBack(ctx, p, s.m, approved)
	p.check(ctx, "the kubelet has asked for a certificate of its own again, and the agent leaves it to that", func(ctx context.Context) (string, error) {
		var seen string
		err := eventually(ctx, func() (err error) {
			seen, err = s.askedBy(ctx, "nodejoin kubelet nodejoin kubelet")
			return err
		})
		if err != nil {
			return "", err
		}
		text, err := s.m.run(ctx, "nodejoin", "status")
		if err == nil && !byKubelet.MatchString(text) {
			err = errors.New(text)
		}
		return seen, err
	})
}

// askedBy returns an error unless it was these programs that have asked for certificates, in this order.
func (s *rotating) askedBy(ctx context.Context, programs string) (string, error) {
	asking, err := s.c.asking(ctx, s.m)
	var agents []string
	for _, e := range asking {
		program, _, _ := strings.Cut(e.UserAgent, "/")
		agents = append(agents, program)
	}
	if err == nil && strings.Join(agents, " ") != programs {
		err = fmt.Errorf("those who asked for certificates are: %v", agents)
	}
	return "by the audit log, requests came from: " + strings.Join(agents, ", "), err
}
