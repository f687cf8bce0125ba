package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// upgrades is the story of a machine whose package changes, and then of its rotations.
type upgrades struct {
	*bed
	c *cluster
	m *machine

	outages []testbed.Outage // of the cluster's
}

func (b *bed) tellOfUpgrades(ctx context.Context, next func(number, title string) *point) {
	s := &upgrades{bed: b, c: b.moving}
	p := next("4", "Upgrade, downgrade, upgrade in mid-rotation, remove, purge, re-install")
	if !p.do(ctx, "boot a machine", s.prepare) {
		return
	}
	p.machines = append(p.machines, s.m)
	s.upgrade(ctx, p)
	s.upgradeInRotation(ctx, p)
	s.remove(ctx, p)
	s.purge(ctx, p)
	if !p.ok() {
		return
	}
	s.rotations(ctx, next("5", "Under the sandbox: rotation, rotation of the cluster's CA, repair, and a hook that restarts a unit"))
}

// prepare boots a machine that has joined with a bundle.
func (s *upgrades) prepare(ctx context.Context) (err error) {
	if s.m, err = s.machine(ctx, "upgraded"); err != nil {
		return err
	}
	userData, err := s.c.admin(ctx, "bundle", s.m.name, "--cloud-init", "--install", packageFile)
	if err != nil {
		return err
	}
	err = errors.Join(s.m.copyIn(s.older, packageFile), s.m.copyIn(s.older, "/root/older.deb"), s.m.copyIn(s.newer, "/root/newer.deb"), s.m.seed(userData))
	if err != nil {
		return err
	}
	if err := s.m.boot(ctx); err != nil {
		return err
	}
	_, err = s.m.says(ctx, s.m.valid())
	return err
}

// moment is what must not change, or must, when the package is changed.
type moment struct {
	serial, pid, version string
	asked                int
}

// asBefore waits until the agent has its identity, which must be the one before, and asked for by nobody again.
func (s *upgrades) asBefore(ctx context.Context, before moment) (string, error) {
	if _, err := s.m.says(ctx, s.m.valid()); err != nil {
		return "", err
	}
	after, err := s.now(ctx)
	if err == nil && (after.serial != before.serial || after.asked != before.asked) {
		err = fmt.Errorf("before: %s; after: %s", before, after)
	}
	return after.String(), err
}

func (s *upgrades) now(ctx context.Context) (at moment, err error) {
	if at.serial, err = s.m.serial(); err != nil {
		return at, err
	}
	if at.pid, err = s.m.property(ctx, unit, "MainPID"); err != nil {
		return at, err
	}
	if at.version, err = s.m.run(ctx, "dpkg-query", "--show", "--showformat=${Version}", "nodejoin"); err != nil {
		return at, err
	}
	at.asked, err = s.c.asked(ctx, s.m)
	return at, err
}

func (at moment) String() string {
	return fmt.Sprintf("version %s, process %s, serial %s, %d request(s)", at.version, at.pid, at.serial, at.asked)
}

// install installs a package, and waits until the agent says what it should.
func (s *upgrades) install(ctx context.Context, deb, says string) (before, after moment, err error) {
	if before, err = s.now(ctx); err != nil {
		return before, after, err
	}
	if _, err := s.m.run(ctx, "dpkg", "--install", deb); err != nil {
		return before, after, err
	}
	if _, err := s.m.says(ctx, says); err != nil {
		return before, after, err
	}
	after, err = s.now(ctx)
	if err == nil && (after.pid == before.pid || after.version == before.version) {
		err = fmt.Errorf("the agent was not restarted in another version: %s, then %s", before, after)
	}
	return before, after, err
}

func (s *upgrades) upgrade(ctx context.Context, p *point) {
	for _, one := range [][2]string{{"upgrade to a newer package", "/root/newer.deb"}, {"downgrade to the older one", "/root/older.deb"}} {
		p.check(ctx, one[0]+": the agent is restarted, with the same identity, and asks for nothing", func(ctx context.Context) (string, error) {
			before, after, err := s.install(ctx, one[1], s.m.valid())
			if err == nil && (after.serial != before.serial || after.asked != before.asked) {
				err = fmt.Errorf("before: %s; after: %s", before, after)
			}
			return fmt.Sprintf("before: %s\nafter:  %s", before, after), err
		})
	}
}

var waitsForRequest = regexp.MustCompile(`nobody has approved its request.*kubectl certificate approve (node-csr-\S+)`)

// upgradeInRotation upgrades while a request is not answered, and has the cluster answer afterwards.
func (s *upgrades) upgradeInRotation(ctx context.Context, p *point) {
	if !p.do(ctx, "pause the controller manager", func(context.Context) error { return s.c.ControllerManager.Pause() }) {
		return
	}
	defer func() { _ = s.c.ControllerManager.Resume() }() // it may have been resumed below
	var pending string
	var before moment
	p.check(ctx, "a rotation is due, and nobody approves its request", func(ctx context.Context) (string, error) {
		if _, err := s.m.run(ctx, "systemctl", "stop", unit); err != nil {
			return "", err
		}
		if err := age(s.c, s.m, 30*time.Minute); err != nil {
			return "", err
		}
		if _, err := s.m.run(ctx, "systemctl", "start", unit); err != nil {
			return "", err
		}
		line, err := s.m.says(ctx, waitsForRequest.String())
		if err == nil {
			pending = waitsForRequest.FindStringSubmatch(line)[1]
		}
		return line, err
	})
	p.check(ctx, "an upgrade meanwhile: the new agent goes on with the same request", func(ctx context.Context) (string, error) {
		earlier, after, err := s.install(ctx, "/root/newer.deb", regexp.QuoteMeta(pending))
		before = earlier
		if err == nil && after.serial != before.serial {
			err = fmt.Errorf("before: %s; after: %s", before, after)
		}
		return fmt.Sprintf("before: %s\nafter:  %s", before, after), err
	})
	p.check(ctx, "the cluster answers: the rotation ends with the certificate of that request", func(ctx context.Context) (string, error) {
		if err := s.c.ControllerManager.Resume(); err != nil {
			return "", err
		}
		if err := eventually(ctx, func() error { return s.m.isValid(before.serial) }); err != nil {
			return "", err
		}
		requests, err := s.c.requests(ctx, s.m.name)
		if err != nil {
			return "", err
		}
		if len(requests) != 2 {
			return "", fmt.Errorf("there are %d requests instead of two", len(requests))
		}
		if last := requests[1].Name; last != pending {
			return "", fmt.Errorf("the last request is %s instead of %s", last, pending)
		}
		if _, err := s.m.says(ctx, s.m.valid()); err != nil {
			return "", err
		}
		after, err := s.now(ctx)
		return fmt.Sprintf("%s is %s\n%s", pending, condition(&requests[1]), after), err
	})
}

// kept are the files that make the machine a node.
var kept = []string{current, kubeconfig, caFile}

// present returns which of some files are on the machine.
func (m *machine) present(paths ...string) (there, absent []string) {
	for _, path := range paths {
		if _, err := os.Lstat(filepath.Join(m.root, path)); err == nil {
			there = append(there, path)
		} else {
			absent = append(absent, path)
		}
	}
	return there, absent
}

func (s *upgrades) remove(ctx context.Context, p *point) {
	var before moment
	p.check(ctx, "dpkg --remove stops the agent and keeps identity, state and configuration", func(ctx context.Context) (_ string, err error) {
		if before, err = s.now(ctx); err != nil {
			return "", err
		}
		if _, err := s.m.run(ctx, "dpkg", "--remove", "nodejoin"); err != nil {
			return "", err
		}
		state, err := s.m.property(ctx, unit, "ActiveState")
		if err != nil {
			return "", err
		}
		_, absent := s.m.present(append([]string{stateFile, configFile, bundleFile}, kept...)...)
		left, _ := s.m.present("/usr/bin/nodejoin", "/usr/lib/systemd/system/nodejoin.service")
		if state != "inactive" || len(absent)+len(left) > 0 {
			err = fmt.Errorf("the unit is %s; gone are %v, left are %v", state, absent, left)
		}
		return "the unit is " + state + "; kept: " + strings.Join(append([]string{configFile, bundleFile}, kept...), " "), err
	})
	p.check(ctx, "re-installed, it goes on with the same identity, and asks for nothing", func(ctx context.Context) (string, error) {
		if _, err := s.m.run(ctx, "dpkg", "--install", "/root/newer.deb"); err != nil {
			return "", err
		}
		return s.asBefore(ctx, before)
	})
}

func (s *upgrades) purge(ctx context.Context, p *point) {
	const mine = "/etc/nodejoin/issuer-ca.crt" // an administrator's
	var before moment
	var config, next string
	p.check(ctx, "dpkg --purge removes configuration and state of nodejoin, and nothing that is a kubelet's or an administrator's", func(ctx context.Context) (_ string, err error) {
		if before, err = s.now(ctx); err != nil {
			return "", err
		}
		if config, err = s.m.read(configFile); err != nil {
			return "", err
		}
		if err := s.m.drop(ctx, mine, "mine\n"); err != nil {
			return "", err
		}
		if _, err := s.m.run(ctx, "dpkg", "--purge", "nodejoin"); err != nil {
			return "", err
		}
		left, gone := s.m.present("/usr/bin/nodejoin", configFile, "/var/lib/nodejoin", "/etc/systemd/system/multi-user.target.wants/nodejoin.service")
		_, absent := s.m.present(append([]string{mine, bundleFile}, kept...)...)
		if len(left)+len(absent) > 0 {
			err = fmt.Errorf("left are %v; gone are %v", left, absent)
		}
		return "gone: " + strings.Join(gone, " ") + "\nkept: " + strings.Join(append([]string{mine, bundleFile}, kept...), " "), err
	})
	p.check(ctx, "installed without a configuration, it is enabled, does not run, and has not failed", func(ctx context.Context) (string, error) {
		said, err := s.m.run(ctx, "dpkg", "--install", "/root/newer.deb")
		if err != nil {
			return said, err
		}
		state, err := s.m.run(ctx, "systemctl", "show", "--property=ActiveState,Result,UnitFileState", unit)
		for _, wanted := range []string{"ActiveState=inactive", "Result=exec-condition", "UnitFileState=enabled"} {
			if err == nil && !strings.Contains(state, wanted) {
				err = fmt.Errorf("it is not %s:\n%s", wanted, state)
			}
		}
		failed, unseen := s.m.run(ctx, "systemctl", "--failed", "--no-legend", "--plain")
		if failed != "" {
			err = errors.Join(err, errors.New(failed))
		}
		if next = nextStep(said); next == "" {
			err = errors.Join(err, errors.New("no next step is printed"))
		}
		return strings.Join(strings.Fields(state), " ") + "\n" + tail(said, 2), errors.Join(err, unseen)
	})
	p.check(ctx, "with its configuration back, the command that the package printed starts it: it takes up the identity that is there, and asks for nothing", func(ctx context.Context) (string, error) {
		if next == "" {
			return "", errors.New("it is not known")
		}
		if err := s.m.drop(ctx, configFile, config); err != nil {
			return "", err
		}
		if said, err := s.m.shell(ctx, next); err != nil {
			return said, fmt.Errorf("%s: %w", next, err)
		}
		seen, err := s.asBefore(ctx, before)
		return next + "\n" + seen, err
	})
}

var printed = regexp.MustCompile(`(?m)^.*and then: (.+) \(see nodejoin-config\(5\)\)$`)

// nextStep returns the command with which the package, at its installation, says to go on; "" if it says none.
func nextStep(said string) string {
	if found := printed.FindStringSubmatch(said); found != nil {
		return found[1]
	}
	return ""
}
