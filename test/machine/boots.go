package main

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// boots is the story of one machine: its first boot, a reboot, and a long time off.
type boots struct {
	*bed
	c     *cluster
	m     *machine
	token string
}

func (b *bed) tellOfBoots(ctx context.Context, next func(number, title string) *point) {
	s := &boots{bed: b, c: b.shared}
	p := next("1", "First boot: cloud-init installs the package, the machine joins with a bootstrap token that a person has to approve")
	s.firstBoot(ctx, p)
	if !p.ok() {
		return
	}
	s.reboot(ctx, next("2", "Reboot"))
	s.longOff(ctx, next("3a", "Powered off past the certificate's expiry, with the token gone"))
}

// prepare makes the machine, off, with its user data.
func (s *boots) prepare(ctx context.Context) (err error) {
	if s.m, err = s.machine(ctx, "first"); err != nil {
		return err
	}
	userData, err := s.c.admin(ctx, "token", "create", "--cloud-init", "--install", packageFile, "--node", s.m.name, "--groups", byHand, "--ttl", "1h")
	if err != nil {
		return err
	}
	if s.token = bootstrapToken.FindString(userData); s.token == "" {
		return errors.New("there is no token in the user data")
	}
	return errors.Join(s.m.addKubelet(s.c.ControlPlane, kubelet{enabled: true}), s.m.copyIn(s.older, packageFile), s.m.seed(userData))
}

var approval = regexp.MustCompile(`nobody has approved its request.*remedy: kubectl (certificate approve node-csr-\S+)`)

func (s *boots) firstBoot(ctx context.Context, p *point) {
	if !p.do(ctx, "prepare the machine", s.prepare) {
		return
	}
	p.machines = append(p.machines, s.m)
	began := time.Now()
	p.check(ctx, "the machine boots", func(ctx context.Context) (string, error) { return "", s.m.boot(ctx) })
	p.check(ctx, "cloud-init installs the package and writes the configuration", func(ctx context.Context) (string, error) {
		err := eventually(ctx, func() error {
			_, err := s.m.shell(ctx, "test -x /usr/bin/nodejoin && grep -q '^[^#]' "+configFile)
			return err
		})
		return "", err
	})
	var line string
	p.check(ctx, "the unit is active, and systemctl status says what it waits for", func(ctx context.Context) (_ string, err error) {
		if line, err = s.m.says(ctx, approval.String()); err != nil {
			return line, err
		}
		active, err := s.m.isActive(ctx, unit)
		return fmt.Sprintf("%s, %.1f s after the start of the boot\n%s", active, time.Since(began).Seconds(), line), err
	})
	p.check(ctx, "cloud-init does not wait for the approval", func(ctx context.Context) (string, error) {
		said, err := s.m.run(ctx, "cloud-init", "status", "--wait")
		return strings.TrimSpace(said), err
	})
	p.check(ctx, "the kubelet waits for the identity", s.kubeletWaits)
	approved := time.Now()
	p.check(ctx, "the command that the status line names, run by the administrator, lets it in", func(ctx context.Context) (string, error) {
		args := strings.Fields(approval.FindStringSubmatch(line)[1])
		said, err := s.c.Kubectl(ctx, args...)
		if err != nil {
			return said, err
		}
		approved = time.Now()
		if err := eventually(ctx, func() error { return s.m.isValid("") }); err != nil {
			return said, err
		}
		joined := time.Now()
		s.measured()
		seconds, err := s.toIdentity(ctx, began, approved, joined)
		return fmt.Sprintf("kubectl %s: %s\n%s", strings.Join(args, " "), strings.TrimSpace(said), seconds), err
	})
	p.check(ctx, "systemctl status says that it has joined", func(ctx context.Context) (string, error) {
		return s.m.says(ctx, s.m.valid())
	})
	p.check(ctx, "the real kubelet registers its Node", func(ctx context.Context) (string, error) {
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		seen, err := s.c.registered(waiting, s.m)
		return fmt.Sprintf("%s, %.1f s after the approval", seen, time.Since(approved).Seconds()), err
	})
	s.c.checkAsked(ctx, p, s.m, 1)
	p.check(ctx, "nothing has failed, and no log has the token", func(ctx context.Context) (string, error) {
		return s.m.isQuiet(ctx, s.token, strings.Split(s.token, ".")[1])
	})
}

// toIdentity says how long a first boot took until the identity was on disk, and what of that was this test's own doing.
func (s *boots) toIdentity(ctx context.Context, began, approved, joined time.Time) (string, error) {
	made, err := s.c.asking(ctx, s.m)
	if err == nil && len(made) == 0 {
		err = errors.New("the audit log has no request of the machine")
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("seconds from boot to identity: %.1f; %.1f of them the request waited for the approval, which this test gave; the identity was on disk %.1f s after it",
		joined.Sub(began).Seconds(), approved.Sub(made[0].RequestReceivedTimestamp).Seconds(), joined.Sub(approved).Seconds()), nil
}

// kubeletWaits returns an error when the kubelet runs, or has failed for good.
func (s *boots) kubeletWaits(ctx context.Context) (string, error) {
	state, err := s.m.property(ctx, "kubelet.service", "ActiveState")
	if err == nil && state != "activating" && state != "inactive" {
		err = fmt.Errorf("kubelet.service is %s", state)
	}
	return "kubelet.service is " + state, err
}

// checkAsked checks how many requests for a certificate the machine has sent since its first boot.
func (c *cluster) checkAsked(ctx context.Context, p *point, m *machine, want int) {
	p.check(ctx, fmt.Sprintf("the machine has made %d request(s) for a certificate so far, by the audit log", want), func(ctx context.Context) (string, error) {
		n, err := c.asked(ctx, m)
		if err == nil && n != want {
			err = fmt.Errorf("%d requests instead of %d", n, want)
		}
		return "", err
	})
}

func (s *boots) reboot(ctx context.Context, p *point) {
	p.machines = append(p.machines, s.m)
	before, err := s.m.serial()
	if !p.do(ctx, "read the serial number", func(context.Context) error { return err }) {
		return
	}
	began := time.Now()
	p.check(ctx, "the machine reboots", func(ctx context.Context) (string, error) { return "", s.m.reboot(ctx) })
	p.check(ctx, "the agent comes back with the same identity", func(ctx context.Context) (string, error) {
		line, err := s.m.says(ctx, s.m.valid())
		if err != nil {
			return line, err
		}
		after, err := s.m.serial()
		if err == nil && after != before {
			err = fmt.Errorf("the serial number was %s and is %s", before, after)
		}
		return fmt.Sprintf("serial %s, %.1f s after the reboot was asked for\n%s", after, time.Since(began).Seconds(), line), err
	})
	s.c.checkKubeletBack(ctx, p, s.m, time.Now())
	s.c.checkAsked(ctx, p, s.m, 1)
	p.check(ctx, "nothing has failed", func(ctx context.Context) (string, error) { return s.m.isQuiet(ctx, s.token) })
}

// checkKubeletBack checks that the kubelet renews its Lease after a moment.
func (c *cluster) checkKubeletBack(ctx context.Context, p *point, m *machine, since time.Time) {
	p.check(ctx, "the kubelet comes back: it renews its Lease", func(ctx context.Context) (string, error) {
		err := eventually(ctx, func() error {
			lease, err := c.Client().CoordinationV1().Leases("kube-node-lease").Get(ctx, m.name, meta.GetOptions{})
			if err == nil && (lease.Spec.RenewTime == nil || !lease.Spec.RenewTime.After(since)) {
				err = errors.New("the Lease is not renewed")
			}
			return err
		})
		return "", err
	})
}

// age puts an old certificate in the place of the machine's, as if the machine had not run for long: one that is valid for a
// while still, or, with less than nothing, that has expired.
func age(c *cluster, m *machine, left time.Duration) error {
	certificate, key, err := c.ClientCA.Issue(testbed.Certificate{
		CommonName: "system:node:" + m.name, Organization: []string{"system:nodes"},
		NotBefore: time.Now().Add(-48 * time.Hour), Lifetime: left,
	})
	if err != nil {
		return err
	}
	before, err := m.identity()
	if err != nil {
		return err
	}
	target, err := os.Readlink(filepath.Join(m.root, current))
	if err != nil {
		return err
	}
	path := filepath.Join(certDir, filepath.Base(target))
	pair, err := m.read(path)
	if err != nil {
		return err
	}
	state, err := m.read(stateFile)
	if err != nil {
		return err
	}
	// What the agent remembers of the certificate, it remembers of the old one: else it takes it for somebody else's.
	block, _ := pem.Decode(certificate)
	aged := string(certificate) + string(key)
	state = strings.NewReplacer(digest(pair), digest(aged), digest(string(before.Raw)), digest(string(block.Bytes))).Replace(state)
	return errors.Join(m.write(path, aged, 0o600), m.write(stateFile, state, 0o600))
}

func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// tokenGone is what the agent says of a token that was deleted: by the signatures of cluster-info, where no other token lives, or by
// the API server's answer.
const tokenGone = "no live bootstrap token|does not know the bootstrap token"

func (s *boots) longOff(ctx context.Context, p *point) {
	p.machines = append(p.machines, s.m)
	p.check(ctx, "the machine is switched off; an expired certificate, signed by the cluster's CA, is put in the place of its own, and its token is deleted", func(ctx context.Context) (string, error) {
		if err := s.m.powerOff(ctx); err != nil {
			return "", err
		}
		if err := errors.Join(s.c.DeleteToken(ctx, s.token), age(s.c, s.m, -24*time.Hour)); err != nil {
			return "", err
		}
		certificate, err := s.m.identity()
		if err != nil {
			return "", err
		}
		return "the certificate on its disk ended at " + certificate.NotAfter.Format(time.RFC3339), nil
	})
	p.check(ctx, "it boots", func(ctx context.Context) (string, error) { return "", s.m.boot(ctx) })
	p.check(ctx, "systemctl status says what is missing", func(ctx context.Context) (string, error) {
		return s.m.says(ctx, tokenGone)
	})
	p.check(ctx, "nodejoin status says it, with the remedy, and does not end with 0", func(ctx context.Context) (string, error) {
		return s.m.statusFails(ctx, []int{3, 4}, tokenGone, "remedy: .*token create")
	})
	var pid string
	p.check(ctx, "the unit is active: it waits, and needs no restart", func(ctx context.Context) (string, error) {
		active, err := s.m.isActive(ctx, unit)
		if err != nil {
			return active, err
		}
		pid, err = s.m.property(ctx, unit, "MainPID")
		return active + ", process " + pid, err
	})
	began := time.Now()
	p.check(ctx, "a new token, written to "+tokenFile+", is enough", func(ctx context.Context) (string, error) {
		token, err := s.c.admin(ctx, "token", "create", "--ttl", "1h")
		if err != nil {
			return "", err
		}
		s.token = strings.TrimSpace(token)
		if err := s.c.WaitSigned(ctx, s.token); err != nil {
			return "", err
		}
		began = time.Now()
		if err := s.m.drop(ctx, tokenFile, s.token+"\n"); err != nil {
			return "", err
		}
		line, err := s.m.says(ctx, s.m.valid())
		if err != nil {
			return line, err
		}
		after, err := s.m.property(ctx, unit, "MainPID")
		if err == nil && after != pid {
			err = fmt.Errorf("the agent's process was %s and is %s", pid, after)
		}
		return fmt.Sprintf("%.1f s after it was written, by the same process\n%s", time.Since(began).Seconds(), line), err
	})
	s.c.checkKubeletBack(ctx, p, s.m, time.Now())
	s.c.checkAsked(ctx, p, s.m, 2)
	p.check(ctx, "nothing has failed, and no log has the new token", func(ctx context.Context) (string, error) { return s.m.isQuiet(ctx, s.token) })
}
