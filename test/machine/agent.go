package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What the test looks at on a machine.
const (
	unit        = "nodejoin.service"
	certDir     = "/var/lib/kubelet/pki"
	current     = certDir + "/kubelet-client-current.pem"
	kubeconfig  = "/etc/kubernetes/kubelet.conf"
	caFile      = "/etc/kubernetes/pki/ca.crt"
	configFile  = "/etc/nodejoin/config.yaml"
	tokenFile   = "/etc/nodejoin/token"
	bundleFile  = "/etc/nodejoin/bundle.conf"
	stateFile   = "/var/lib/nodejoin/state.json"
	packageFile = "/var/cache/nodejoin/nodejoin.deb"
)

// identity returns the certificate that the machine has on its disk, whether it runs or not.
func (m *machine) identity() (*x509.Certificate, error) {
	target, err := os.Readlink(filepath.Join(m.root, current))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(m.root, certDir, filepath.Base(target)))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("there is no certificate in %s of %s", target, m.name)
	}
	return x509.ParseCertificate(block.Bytes)
}

// serial returns the serial number of the machine's certificate.
func (m *machine) serial() (string, error) {
	certificate, err := m.identity()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", certificate.SerialNumber), nil
}

// property returns a property of a unit on the machine.
func (m *machine) property(ctx context.Context, unit, name string) (string, error) {
	value, err := m.run(ctx, "systemctl", "show", "--value", "--property="+name, unit)
	return strings.TrimSpace(value), err
}

var statusLine = regexp.MustCompile(`(?m)^\s*Status: "(.*)"$`)

// status returns the line that the agent has told to systemd, as `systemctl status` shows it.
func (m *machine) status(ctx context.Context) (string, error) {
	text, err := m.run(ctx, "systemctl", "status", "--no-pager", "--full", "--lines=0", unit)
	found := statusLine.FindStringSubmatch(text)
	if found == nil {
		return "", errors.Join(err, fmt.Errorf("systemctl status shows no status of the agent:\n%s", text))
	}
	return found[1], nil
}

// says waits until the status line matches a pattern, and returns the line.
func (m *machine) says(ctx context.Context, pattern string) (line string, err error) {
	wanted := regexp.MustCompile(pattern)
	err = eventually(ctx, func() (err error) {
		if line, err = m.status(ctx); err == nil && !wanted.MatchString(line) {
			err = fmt.Errorf("the status line is %q", line)
		}
		return err
	})
	return line, err
}

// valid is what the status line says of a machine whose identity is in order.
func (m *machine) valid() string {
	return "^" + regexp.QuoteMeta(m.name) + ": certificate valid until "
}

// isActive returns an error unless a unit is active, and says so otherwise.
func (m *machine) isActive(ctx context.Context, unit string) (string, error) {
	state, err := m.property(ctx, unit, "ActiveState")
	if err == nil && state != "active" {
		err = fmt.Errorf("%s is %s", unit, state)
	}
	return unit + " is " + state, err
}

// isValid returns nil once the machine has an identity that is not of a serial number.
func (m *machine) isValid(not string) error {
	certificate, err := m.identity()
	if err != nil {
		return err
	}
	switch now := time.Now(); {
	case now.After(certificate.NotAfter):
		return fmt.Errorf("the certificate of %s expired at %s", m.name, certificate.NotAfter.Format(time.RFC3339))
	case fmt.Sprintf("%x", certificate.SerialNumber) == not:
		return fmt.Errorf("%s still has the certificate %s", m.name, not)
	}
	return nil
}

// complaint is what cloud-init logs of what it does not like, and goes on after.
var complaint = regexp.MustCompile(`(?m)^.*\[(WARNING|ERROR|CRITICAL)\].*$`)

// isQuiet returns an error when a unit has failed, when cloud-init has not come to a good end or has complained, or when a
// secret is in a log.
func (m *machine) isQuiet(ctx context.Context, secrets ...string) (string, error) {
	cloudInit, err := m.run(ctx, "cloud-init", "status", "--wait", "--long")
	if err != nil || !strings.Contains(cloudInit, "status: done") {
		return "", errors.Join(err, fmt.Errorf("cloud-init says:\n%s", cloudInit))
	}
	log, err := m.run(ctx, "cat", "/var/log/cloud-init.log")
	complaints := slices.DeleteFunc(complaint.FindAllString(log, -1), func(line string) bool {
		return strings.Contains(line, "SSH service 'ssh' is not installed") // nor is it wanted
	})
	if err != nil || len(complaints) != 0 {
		return "", errors.Join(err, fmt.Errorf("cloud-init complains:\n%s", strings.Join(complaints, "\n")))
	}
	units, err := m.run(ctx, "systemctl", "--failed", "--no-legend", "--plain", "--no-pager")
	if err != nil || strings.TrimSpace(units) != "" {
		return "", errors.Join(err, fmt.Errorf("units have failed: %s", units))
	}
	found, err := m.keepsQuiet(ctx, secrets)
	return "cloud-init is done and has not complained, no unit has failed, and " + found, err
}

// keepsQuiet returns an error when a secret is in a log. That it would find one is shown by a word that it has written there.
func (m *machine) keepsQuiet(ctx context.Context, secrets []string) (string, error) {
	marker := "marker-" + rand.Text()
	if _, err := m.run(ctx, "logger", "a word to be found: "+marker); err != nil {
		return "", err
	}
	var all logs
	err := eventually(ctx, func() (err error) {
		if all, err = m.logs(ctx); err == nil && all.with(marker) != journal {
			err = fmt.Errorf("what logger has written is not found in the journal of %s", m.name)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	lines := 0
	for _, text := range all {
		lines += strings.Count(text, "\n")
	}
	for _, secret := range secrets {
		if where := all.with(secret); where != "" {
			return "", fmt.Errorf("there is a secret in %s of %s", where, m.name)
		}
	}
	return fmt.Sprintf("none of %d secret text(s) is in %d lines of the journal and of cloud-init's logs; a marker that was logged is", len(secrets), lines), nil
}

// logs are what a machine has written down, by their names.
type logs map[string]string

const (
	journal       = "the journal"
	cloudInitLogs = "cloud-init's logs"
)

func (m *machine) logs(ctx context.Context) (logs, error) {
	entries, err := m.run(ctx, "journalctl", "--no-pager", "--output=cat")
	if err != nil {
		return nil, err
	}
	files, err := m.shell(ctx, "cat /var/log/cloud-init*.log")
	return logs{journal: entries, cloudInitLogs: files}, err
}

// with returns the name of a log that has a text, or "".
func (l logs) with(text string) string {
	for name, content := range l {
		if strings.Contains(content, text) {
			return name
		}
	}
	return ""
}

// drop puts a file for the agent into the running machine as a person would: whole, and for root alone.
func (m *machine) drop(ctx context.Context, path, content string) error {
	cmd := m.command(ctx, "sh", "-c", `umask 077 && cat >"$1.new" && mv "$1.new" "$1"`, "sh", path)
	cmd.Stdin = strings.NewReader(content)
	_, err := output(cmd)
	return err
}

// statusFails waits until nodejoin status ends with one of some statuses and prints some patterns: the agent tries again meanwhile, and may
// have met something else for a moment. It returns what is printed up to the description of the agent.
func (m *machine) statusFails(ctx context.Context, exits []int, patterns ...string) (text string, err error) {
	err = eventually(ctx, func() error {
		text, err = m.run(ctx, "nodejoin", "status")
		if ended, ok := errors.AsType[*exec.ExitError](err); !ok || !slices.Contains(exits, ended.ExitCode()) {
			return fmt.Errorf("nodejoin status did not end with %d, and printed (%w):\n%s", exits, err, text)
		}
		for _, pattern := range patterns {
			if !regexp.MustCompile(pattern).MatchString(text) {
				return fmt.Errorf("nodejoin status does not say %q:\n%s", pattern, text)
			}
		}
		return nil
	})
	before, _, _ := strings.Cut(text, "\nagent ")
	return strings.TrimSpace(before), err
}
