//go:build linux

package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/rotate"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestFilesOfIdentity(t *testing.T) {
	chmod := func(t *testing.T, path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	examineEach(t, []trial{
		{"configuration refused", func(_ *testing.T, p *patient) { p.ConfigErr = fault.New(fault.Usage, "mend it", "line 1\nis wrong") }, []wanted{{"configuration", Failure, "line 1 is wrong", "mend it"}}},
		{"no configuration", func(_ *testing.T, p *patient) { p.ConfigFile = "" }, []wanted{{"configuration", OK, "flags and defaults apply", ""}, {"disk", OK, "there is room on 1 file system,", ""}}},
		{"a node's name that is none", func(_ *testing.T, p *patient) { p.Node = "a/b" }, []wanted{{"node name", Failure, `the node name "a/b"`, "--node-name"}, {"certificate", Failure, `this machine is the node "a/b"`, "--node-name"}}},
		{"another host's name", func(_ *testing.T, p *patient) { p.host.name = func() (string, error) { return "other", nil } }, []wanted{
			{"node name", OK, `the node's name is "node-1", and that of this host "other"`, ""},
			{"kubelet", Warning, `takes this host's name "other" for the node's`, "--hostname-override=node-1"},
		}},

		{"a store that must not be used", func(_ *testing.T, p *patient) {
			p.Disk, p.DiskErr = nil, fault.New(fault.Files, "chmod it", "the store is open")
		}, []wanted{
			{"certificate", Failure, "the store is open", "chmod it"}, {"kubeconfig", Skipped, "not known", ""}, {"rotation", Skipped, "no valid certificate", ""},
		}},
		{"a torn certificate", func(_ *testing.T, p *patient) { p.Disk.Pair, p.Disk.PairErr = nil, errors.New("it is torn") }, []wanted{{"certificate", Failure, "it is torn", "nodejoin join"}, {"kubeconfig", Failure, "leads to another certificate", "nodejoin join"}}},
		{"another node's certificate", func(t *testing.T, p *patient) { p.Disk.Pair = p.server.ca.pair(t, "other", -time.Hour, time.Hour) }, []wanted{
			{"certificate", Failure, `is of "system:node:other"`, "--force"}, {"rotation", Skipped, "no valid certificate of the node", ""}, {"kubeconfig", Failure, "leads to another certificate", "nodejoin join"},
		}},
		{"expired", func(t *testing.T, p *patient) {
			p.Disk.Pair = p.server.ca.pair(t, nodeName, -time.Hour, -time.Minute)
			p.Disk.Kubeconfig.Pair = p.Disk.Pair
		}, []wanted{{"certificate", Failure, "the certificate expired at", "kubeadm token create"}, {"rotation", Skipped, "no valid certificate", ""}}},
		{"overdue", func(t *testing.T, p *patient) {
			p.Disk.Pair = p.server.ca.pair(t, nodeName, -99*time.Hour, time.Hour)
			p.Disk.Kubeconfig.Pair = p.Disk.Pair
		}, []wanted{{"certificate", Warning, "should have been rotated before", "nodejoin status"}}},
		{"a request under way", func(_ *testing.T, p *patient) { p.Disk.PendingKey = []byte("x") }, []wanted{{"certificate", OK, "a request that is under way", ""}, {"certificate", OK, "is valid until", ""}}},
		{"no kubeconfig", func(_ *testing.T, p *patient) { p.Disk.Kubeconfig = nil }, []wanted{{"kubeconfig", Failure, "is missing: a kubelet cannot start", "nodejoin join"}}},
		{"a damaged kubeconfig", func(_ *testing.T, p *patient) { p.Disk.Kubeconfig, p.Disk.KubeconfigErr = nil, errors.New("damaged") }, []wanted{{"kubeconfig", Failure, "damaged", "nodejoin join"}}},
		{"somebody else's kubeconfig", func(_ *testing.T, p *patient) { p.Disk.Kubeconfig, p.Disk.KubeconfigErr = nil, rotate.ErrUnmanaged }, []wanted{{"kubeconfig", Failure, "somebody else keeps", "--force"}}},

		{"a certificate that others can read", func(t *testing.T, p *patient) { chmod(t, p.Disk.PairPath, 0o640) }, []wanted{{"files", Failure, "current.pem is readable by others (mode 0640)", "chmod 0600"}}},
		{"a pending key that others can read", func(t *testing.T, p *patient) {
			chmod(t, filepath.Join(p.Paths.StateDir, "kubelet-client.key.pending"), 0o604)
		}, []wanted{{"files", Failure, "kubelet-client.key.pending is readable by others", "chmod 0600"}}},
		{"a token that others can read", func(t *testing.T, p *patient) { chmod(t, p.Secrets[0], 0o604) }, []wanted{{"files", Failure, "etc/token is readable by others (mode 0604)", "chmod 0600"}}},
		{"a token that its group can read", func(t *testing.T, p *patient) { chmod(t, p.Secrets[0], 0o640) }, []wanted{{"files", OK, "owners and modes are in order", ""}}},
		{"a kubeconfig that others can write", func(t *testing.T, p *patient) { chmod(t, p.Paths.Kubeconfig, 0o602) }, []wanted{{"files", Failure, "kubelet.conf is writable by others", "look at what is in it, then: chmod 0600"}}},
		{"a configuration that its group can write", func(t *testing.T, p *patient) { chmod(t, p.ConfigFile, 0o664) }, []wanted{{"files", Failure, "config.yaml is writable by others", "chmod 0644"}}},
		{"a directory that others can write", func(t *testing.T, p *patient) { chmod(t, p.Paths.CertDir, 0o777) }, []wanted{{"files", Failure, "the directory " + "/", "chmod 0755"}}},
		{"a state directory that others can read", func(t *testing.T, p *patient) { chmod(t, p.Paths.StateDir, 0o755) }, []wanted{{"files", Warning, "state is readable by others", "chmod 0700"}}},
		{"nothing there yet", func(t *testing.T, p *patient) {
			p.unjoin()
			for _, dir := range []string{p.Paths.StateDir, p.Paths.CertDir, filepath.Dir(p.Paths.Kubeconfig)} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
		}, []wanted{{"files", OK, "in order (2 files and directories)", ""}, {"disk", OK, "there is room", ""}, {"kubeconfig", Skipped, "has not joined", ""}}},
	})
}

func TestForeignOwner(t *testing.T) {
	expect.Root(t)
	p := newPatient(t)
	if err := os.Chown(p.Disk.PairPath, 12345, -1); err != nil {
		t.Fatal(err)
	}
	p.examineFor(t, wanted{"files", Failure, "current.pem belongs to another user (uid 12345)", "chown root"})
}

func TestDisks(t *testing.T) {
	expect.Root(t)
	for _, test := range []struct {
		name, options string
		fill          int
		want          wanted
	}{
		{"room", "size=64m", 0, wanted{"disk", OK, "there is room on 2 file systems", ""}},
		{"little room", "size=8m", 0, wanted{"disk", Warning, "is nearly full", "df -h"}},
		{"no room", "size=1m", 900 << 10, wanted{"disk", Failure, "is nearly full", "df -h"}},
		{"few inodes", "size=64m,nr_inodes=100", 0, wanted{"disk", Warning, "is nearly full", "df -i"}},
		{"no inodes", "size=64m,nr_inodes=10", 0, wanted{"disk", Failure, "is nearly full", "df -i"}},
		{"read-only", "ro", 0, wanted{"disk", Failure, "is read-only", "mount -o remount,rw"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPatient(t)
			dir := filepath.Join(p.dir, "disk")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			p.RuntimeDir, p.Paths.CertDir = filepath.Join(dir, "run"), filepath.Join(dir, "pki") // which are not there yet
			mount(t, dir, test.options)
			if test.fill != 0 {
				write(t, filepath.Join(dir, "file"), strings.Repeat("x", test.fill), 0o600)
			}
			p.examineFor(t, test.want)
			told := 0
			for _, f := range p.examine(t).Findings {
				if f.Check == "disk" {
					told++
				}
			}
			if told != 1 {
				t.Errorf("%d findings of one file system", told)
			}
		})
	}
}
