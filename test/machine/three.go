package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// three is the story of machines that a cloud starts with one user data, as it does with a group of instances.
type three struct {
	*bed
	c        *cluster
	machines [3]*machine
	secrets  []string
	began    time.Time
}

func (b *bed) tellOfThree(ctx context.Context, next func(number, title string) *point) {
	s := &three{bed: b, c: b.shared}
	p := next("7", "Three machines at once, with one user data; the third tries to become the first with a bundle of its own")
	if !p.do(ctx, "prepare the machines", s.prepare) {
		return
	}
	p.machines = s.machines[:]
	s.join(ctx, p)
	s.thief(ctx, p)
	p.check(ctx, "nothing has failed, and no log has a key", s.quiet)
	if !p.ok() {
		return
	}
	s.longOff(ctx, next("3b", "Powered off past the certificate's expiry, with the bundle expired, too"))
}

// ownBundle is the key in a bundle, as it stands in user data.
var ownBundle = regexp.MustCompile(`client-key-data: (\S+)`)

// hide adds a key to what no log may have: as it stands in a bundle, and each line of it as it stands in a file.
func (s *three) hide(data string) error {
	text, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return fmt.Errorf("the key in a bundle: %w", err)
	}
	s.secrets = append(s.secrets, data)
	lines := 0
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "-----") {
			s.secrets = append(s.secrets, line)
			lines++
		}
	}
	if lines == 0 {
		return errors.New("the key in a bundle is not PEM")
	}
	return nil
}

// prepare makes three machines, off, whose user data is the same: in it, each takes the part that carries its host name
// (https://cloudinit.readthedocs.io/en/latest/explanation/instancedata.html#using-instance-data).
func (s *three) prepare(ctx context.Context) (err error) {
	names := [3]string{"alpha", "beta", "gamma"}
	var document strings.Builder
	document.WriteString("## template: jinja\n#cloud-config\n")
	for i, name := range names {
		if s.machines[i], err = s.machine(ctx, name); err != nil {
			return err
		}
		part, err := s.c.admin(ctx, "bundle", name, "--cloud-init", "--install", packageFile)
		if err != nil {
			return err
		}
		key := ownBundle.FindStringSubmatch(part)
		if key == nil {
			return errors.New("there is no key in the user data")
		}
		if err := s.hide(key[1]); err != nil {
			return err
		}
		if name == "gamma" { // the thief says that it is another
			part = regexp.MustCompile(`(?m)^( +)cluster:\n( +)discoveryFile:`).ReplaceAllString(part, "${1}nodeName: alpha\n$0")
			if !strings.Contains(part, "nodeName: alpha") {
				return errors.New("there is no configuration in the user data:\n" + part)
			}
		}
		fmt.Fprintf(&document, "{%% if v1.local_hostname == '%s' %%}\n%s{%% endif %%}\n", name, strings.TrimPrefix(part, "#cloud-config\n"))
	}
	for _, m := range s.machines {
		if err := errors.Join(m.copyIn(s.older, packageFile), m.seed(document.String())); err != nil {
			return err
		}
	}
	return nil
}

func (s *three) join(ctx context.Context, p *point) {
	s.began = time.Now()
	p.check(ctx, "they boot at the same time", func(ctx context.Context) (string, error) {
		return "", bootAll(ctx, s.machines[:]...)
	})
	p.check(ctx, "two join, each as itself, without a person", func(ctx context.Context) (string, error) {
		var joining sync.WaitGroup
		var failed [2]error
		var seen [2]string
		for i, m := range s.machines[:2] {
			joining.Go(func() { seen[i], failed[i] = safely(func() (string, error) { return m.joins(ctx, s.began) }) })
		}
		joining.Wait()
		return strings.Join(seen[:], "\n"), errors.Join(failed[:]...)
	})
}

// bootAll boots machines at the same time.
func bootAll(ctx context.Context, machines ...*machine) error {
	var booting sync.WaitGroup
	failed := make([]error, len(machines))
	for i, m := range machines {
		booting.Go(func() { _, failed[i] = safely(func() (string, error) { return "", m.boot(ctx) }) })
	}
	booting.Wait()
	return errors.Join(failed...)
}

// joins waits until a machine has its identity, and says how long that took since it was switched on.
func (m *machine) joins(ctx context.Context, began time.Time) (string, error) {
	if err := eventually(ctx, func() error { return m.isValid("") }); err != nil {
		return "", err
	}
	seconds := time.Since(began).Seconds()
	certificate, err := m.identity()
	if err == nil && certificate.Subject.CommonName != "system:node:"+m.name {
		err = fmt.Errorf("%s is %s", m.name, certificate.Subject)
	}
	if err != nil {
		return "", err
	}
	line, err := m.says(ctx, m.valid())
	return fmt.Sprintf("%s: the identity %s is on disk %.1f s after the start of the boot\n%s", m.name, certificate.Subject, seconds, line), err
}

// thief checks what became of the third machine's request.
func (s *three) thief(ctx context.Context, p *point) {
	victim, thief := s.machines[0], s.machines[2]
	p.check(ctx, "the third asks for the name of the first, and waits: nobody approves that", func(ctx context.Context) (string, error) {
		return thief.says(ctx, `nobody has approved its request`)
	})
	p.check(ctx, "20 seconds later its request is pending still, and it has no identity", func(ctx context.Context) (string, error) {
		timer := time.NewTimer(20 * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		requests, err := s.c.requests(ctx, victim.name)
		if err != nil {
			return "", err
		}
		var lines []string
		for i := range requests {
			r := &requests[i]
			lines = append(lines, fmt.Sprintf("%s for %s by %s: %s", r.Name, commonName(r), r.Spec.Username, condition(r)))
			want := "Pending"
			if r.Spec.Username == "system:node:"+victim.name {
				want = "Approved,Issued"
			}
			if got := condition(r); got != want {
				err = errors.Join(err, fmt.Errorf("it should be %s: %s", want, lines[i]))
			}
		}
		if len(requests) != 2 {
			err = errors.Join(err, fmt.Errorf("there are %d requests instead of two", len(requests)))
		}
		if there, _ := thief.present(current, kubeconfig); len(there) > 0 {
			err = errors.Join(err, fmt.Errorf("the machine %s has %v", thief.name, there))
		}
		return strings.Join(lines, "\n"), err
	})
}

func (s *three) quiet(ctx context.Context) (string, error) {
	var lines []string
	for _, m := range s.machines {
		line, err := m.isQuiet(ctx, s.secrets...)
		if err != nil {
			return line, fmt.Errorf("%s: %w", m.name, err)
		}
		lines = append(lines, m.name+": "+line)
	}
	return strings.Join(lines, "\n"), nil
}

var bundleData = regexp.MustCompile(`client-(certificate|key)-data: \S+`)

// expire makes the machine's bundle one that has expired, while it is off.
func (s *three) expire(m *machine) error {
	bundle, err := m.read(bundleFile)
	if err != nil {
		return err
	}
	certificate, key, err := s.c.ClientCA.Issue(testbed.Certificate{
		CommonName: "system:node:" + m.name, Organization: []string{"nodejoin:joiners"},
		NotBefore: time.Now().Add(-48 * time.Hour), Lifetime: -47 * time.Hour,
	})
	if err != nil {
		return err
	}
	if err := s.hide(base64.StdEncoding.EncodeToString(key)); err != nil {
		return err
	}
	expired := bundleData.ReplaceAllStringFunc(bundle, func(line string) string {
		if strings.HasPrefix(line, "client-key") {
			return "client-key-data: " + base64.StdEncoding.EncodeToString(key)
		}
		return "client-certificate-data: " + base64.StdEncoding.EncodeToString(certificate)
	})
	return m.write(bundleFile, expired, 0o600)
}

// longOff has the first machine come back to an expired certificate and an expired bundle.
func (s *three) longOff(ctx context.Context, p *point) {
	m := s.machines[0]
	p.machines = []*machine{m}
	p.check(ctx, "the machine is switched off; expired certificates, signed by the cluster's CA, are put in the place of its own and of its bundle's", func(ctx context.Context) (string, error) {
		if err := m.powerOff(ctx); err != nil {
			return "", err
		}
		return "", errors.Join(age(s.c, m, -24*time.Hour), s.expire(m))
	})
	p.check(ctx, "it boots, and says what is missing", func(ctx context.Context) (string, error) {
		if err := m.boot(ctx); err != nil {
			return "", err
		}
		return m.says(ctx, `does not accept the client certificate`)
	})
	p.check(ctx, "nodejoin status says it, with the remedy, and ends with 4", func(ctx context.Context) (string, error) {
		return m.statusFails(ctx, []int{4}, "does not accept the client certificate in "+bundleFile+": it expired", "remedy: have a new one made .nodejoin bundle NODE. and put it into "+bundleFile)
	})
	p.check(ctx, "a new bundle, written to "+bundleFile+", is enough", func(ctx context.Context) (string, error) {
		bundle, err := s.c.admin(ctx, "bundle", m.name)
		if err != nil {
			return "", err
		}
		key := ownBundle.FindStringSubmatch(bundle)
		if key == nil {
			return "", errors.New("there is no key in the bundle")
		}
		if err := s.hide(key[1]); err != nil {
			return "", err
		}
		began := time.Now()
		if err := m.drop(ctx, bundleFile, bundle); err != nil {
			return "", err
		}
		line, err := m.says(ctx, m.valid())
		return fmt.Sprintf("%.1f s after it was written\n%s", time.Since(began).Seconds(), line), err
	})
	p.check(ctx, "nothing has failed, and no log has a key", func(ctx context.Context) (string, error) { return m.isQuiet(ctx, s.secrets...) })
}
