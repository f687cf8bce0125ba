package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// mostExposed is the score of systemd-analyze security that the unit must not exceed.
const mostExposed = 1.5

// rotations goes on with the machine of the upgrades.
func (s *upgrades) rotations(ctx context.Context, p *point) {
	p.machines = append(p.machines, s.m)
	p.check(ctx, fmt.Sprintf("systemd-analyze security: the exposure of the unit is %.1f at most", mostExposed), s.exposure)
	p.check(ctx, "a changed configuration is taken up by systemctl reload", s.configure)
	s.force(ctx, p)
	p.check(ctx, "a deleted kubeconfig is put back", func(ctx context.Context) (string, error) {
		return s.m.putBack(ctx, kubeconfig)
	})
	s.rotateCA(ctx, p)
	p.check(ctx, "the API server has refused nothing to the machine meanwhile (401, 403), and nothing has failed", func(ctx context.Context) (string, error) {
		lines, err := s.c.refused(ctx, s.m, p.began, s.outages)
		if err == nil && len(lines) > 0 {
			err = errors.New(strings.Join(lines, "\n"))
		}
		if err != nil {
			return "", err
		}
		return s.m.isQuiet(ctx)
	})
}

var exposureLine = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+) .*`)

func (s *upgrades) exposure(ctx context.Context) (string, error) {
	text, err := s.m.run(ctx, "systemd-analyze", "security", "--no-pager", unit)
	found := exposureLine.FindStringSubmatch(text)
	if err != nil || found == nil {
		return "", errors.Join(err, errors.New("it tells no score: "+tail(text, 3)))
	}
	score, err := strconv.ParseFloat(found[1], 64)
	if err == nil && score > mostExposed {
		err = errors.New(found[0])
	}
	return found[0], err
}

// moreConfiguration has the agent look at the cluster's CA all the time, and tell others of what has changed: through a file, and
// by asking systemd, without the capabilities that the sandbox takes away.
const moreConfiguration = `
trust: {interval: 2s}
hooks:
- {name: restart-reader, on: [kubelet-client, ca], command: [/usr/bin/touch, /run/nodejoin/changed]}
- {name: try-restart, on: [kubelet-client], command: [/bin/sh, -c, "grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status && exec /usr/bin/systemctl try-restart restarted.service"]}
`

// readerUnits are a service that wants to be restarted after a change, and the way to it from a hook.
var readerUnits = map[string]string{
	"/etc/systemd/system/reader.service":         "[Service]\nExecStart=/bin/sh -c 'date >>/var/log/reader; exec sleep infinity'\n",
	"/etc/systemd/system/restarted.service":      "[Service]\nExecStart=/bin/sh -c 'date >>/var/log/restarted; exec sleep infinity'\n",
	"/etc/systemd/system/restart-reader.path":    "[Path]\nPathChanged=/run/nodejoin/changed\n",
	"/etc/systemd/system/restart-reader.service": "[Service]\nType=oneshot\nExecStart=/bin/systemctl restart reader.service\n",
}

func (s *upgrades) configure(ctx context.Context) (string, error) {
	for path, text := range readerUnits {
		if err := s.m.drop(ctx, path, text); err != nil {
			return "", err
		}
	}
	if _, err := s.m.shell(ctx, "systemctl daemon-reload && systemctl start reader.service restarted.service restart-reader.path"); err != nil {
		return "", err
	}
	config, err := s.m.read(configFile)
	if err != nil {
		return "", err
	}
	before, err := s.m.property(ctx, unit, "MainPID")
	if err != nil {
		return "", err
	}
	if err := s.m.drop(ctx, configFile, config+moreConfiguration); err != nil {
		return "", err
	}
	if _, err := s.m.run(ctx, "systemctl", "reload", unit); err != nil {
		return "", err
	}
	line, err := s.m.says(ctx, s.m.valid())
	if err != nil {
		return line, err
	}
	after, err := s.m.property(ctx, unit, "MainPID")
	if err == nil && after != before {
		err = fmt.Errorf("the process was %s and is %s", before, after)
	}
	// Hooks that are new run for what is there.
	return "process " + after + ", as before", errors.Join(err, s.startedAgain(ctx, byPath, 1), s.startedAgain(ctx, byHook, 1))
}

// byPath and byHook are the units that are restarted after a change: through a path unit, and by a hook itself.
const byPath, byHook = "reader", "restarted"

// starts returns how often a unit was started that logs it.
func (s *upgrades) starts(name string) (int, error) {
	text, err := s.m.read("/var/log/" + name)
	return strings.Count(text, "\n"), err
}

// startedAgain waits until a unit was started more often than it was.
func (s *upgrades) startedAgain(ctx context.Context, name string, before int) error {
	return eventually(ctx, func() error {
		now, err := s.starts(name)
		if err == nil && now <= before {
			err = fmt.Errorf("%s.service was started %d times, as before", name, now)
		}
		return err
	})
}

// force rotates, and looks at what the hooks have led to.
func (s *upgrades) force(ctx context.Context, p *point) {
	started := map[string]int{}
	p.check(ctx, "a rotation (nodejoin join --force) writes a new certificate", func(ctx context.Context) (_ string, err error) {
		for _, name := range []string{byPath, byHook} {
			if started[name], err = s.starts(name); err != nil {
				return "", err
			}
		}
		before, err := s.m.serial()
		if err != nil {
			return "", err
		}
		began := time.Now()
		if _, err := s.m.run(ctx, "nodejoin", "join", "--force", "--timeout", "1m"); err != nil {
			return "", err
		}
		after, err := s.m.serial()
		if err == nil && after == before {
			err = errors.New("the serial number has not changed")
		}
		return fmt.Sprintf("serial %s, then %s, in %.1f s", before, after, time.Since(began).Seconds()), err
	})
	again := func(ctx context.Context, name string) (string, error) {
		return fmt.Sprintf("%s.service was started %d time(s) before the rotation, and again after it", name, started[name]), s.startedAgain(ctx, name, started[name])
	}
	p.check(ctx, "a hook restarts a unit through a path unit", func(ctx context.Context) (string, error) { return again(ctx, byPath) })
	p.check(ctx, "a hook restarts a unit by systemctl try-restart, from the sandbox", func(ctx context.Context) (string, error) { return again(ctx, byHook) })
}

// putBack deletes a file, and waits until it is there again.
func (m *machine) putBack(ctx context.Context, path string) (string, error) {
	before, err := m.read(path)
	if err != nil {
		return "", err
	}
	if _, err := m.run(ctx, "rm", path); err != nil {
		return "", err
	}
	began := time.Now()
	err = eventually(ctx, func() error {
		after, err := m.read(path)
		if err == nil && after != before {
			err = errors.New("it is another one")
		}
		return err
	})
	return fmt.Sprintf("the same again after %.1f s", time.Since(began).Seconds()), err
}

// rotateCA takes the cluster from one CA to another, in the three steps of Kubernetes' documentation.
func (s *upgrades) rotateCA(ctx context.Context, p *point) {
	old := s.c.ServingCA
	var next *testbed.CA
	var before moment
	p.do(ctx, "make another CA", func(ctx context.Context) (err error) {
		if next, err = testbed.NewCA(filepath.Join(s.c.Dir, "pki", "next"), "kubernetes"); err != nil {
			return err
		}
		before, err = s.now(ctx)
		return err
	})
	p.check(ctx, "CA rotation, 1: the old CA signs, both are trusted: the machine's bundle has both", func(ctx context.Context) (string, error) {
		return s.stepCA(ctx, testbed.PKI{Issuer: old, Trusted: []*testbed.CA{old, next}})
	})
	p.check(ctx, "CA rotation, 2: the new CA signs: a rotation brings a certificate of it", func(ctx context.Context) (string, error) {
		if seen, err := s.stepCA(ctx, testbed.PKI{Issuer: next, Trusted: []*testbed.CA{old, next}}); err != nil {
			return seen, err
		}
		if _, err := s.m.run(ctx, "nodejoin", "join", "--force", "--timeout", "1m"); err != nil {
			return "", err
		}
		certificate, err := s.m.identity()
		if err == nil {
			err = certificate.CheckSignatureFrom(next.Cert)
		}
		after, unseen := s.now(ctx)
		return fmt.Sprintf("serial %s, then %s, of the CA %s", before.serial, after.serial, next.Pin()), errors.Join(err, unseen)
	})
	p.check(ctx, "CA rotation, 3: the new CA alone is trusted: the old one is gone from the bundle", func(ctx context.Context) (string, error) {
		return s.stepCA(ctx, testbed.PKI{Issuer: next, Trusted: []*testbed.CA{next}})
	})
	p.check(ctx, "all that by the same process, whose status is in order", func(ctx context.Context) (string, error) {
		line, err := s.m.says(ctx, s.m.valid())
		if err != nil {
			return line, err
		}
		after, err := s.now(ctx)
		if err == nil && after.pid != before.pid {
			err = fmt.Errorf("the process was %s and is %s", before.pid, after.pid)
		}
		return line, err
	})
}

// stepCA takes a step, and waits until the machine's bundle is what the cluster trusts.
func (s *upgrades) stepCA(ctx context.Context, pki testbed.PKI) (string, error) {
	outage, err := s.c.Rotate(ctx, pki)
	if err != nil {
		return "", err
	}
	s.outages = append(s.outages, outage)
	err = eventually(ctx, func() error {
		text, err := os.ReadFile(filepath.Join(s.m.root, caFile))
		if err != nil {
			return err
		}
		rest := string(text)
		for _, ca := range pki.Trusted {
			before, after, found := strings.Cut(rest, string(ca.PEM))
			if !found {
				return errors.New("a CA of the cluster's is not in the bundle")
			}
			rest = before + after
		}
		if strings.TrimSpace(rest) != "" {
			return errors.New("there is more in the bundle than the cluster trusts")
		}
		return nil
	})
	return fmt.Sprintf("%d CA(s) in %s, %.1f s after the API server was back", len(pki.Trusted), caFile, time.Since(outage.To).Seconds()), err
}
