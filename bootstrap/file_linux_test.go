package bootstrap

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// To open a pipe that nobody writes to is to wait for ever, and so may be to read one that somebody does.
func TestNoFileMayBeAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	withCA := insert("server:", "    certificate-authority: "+path)(kubeconfigOf(testServer, Bundle{}))
	withToken := strings.Replace(kubeconfigOf(testServer, bundleOf(machineCA)), "users: null", "users: [{name: a, user: {tokenFile: "+path+"}}]", 1)
	for _, test := range []struct {
		name   string
		read   func() error
		remedy string
	}{
		{"token", func() error { _, err := ReadTokenFile(path, nil); return err }, "pipe it to --token-file -"},
		{"bearer token", func() error { _, err := (&BearerFile{path}).Proof(t.Context()); return err }, "write a valid token to " + path},
		{"CA", func() error { _, err := ReadBundle(path, time.Now()); return err }, "copy the cluster's CA certificate"},
		{"discovery file", func() error { _, err := ReadDiscoveryFile(path, time.Now()); return err }, "write a kubeconfig"},
		{"CA of a discovery file", func() error {
			_, err := ReadDiscoveryFile(writeFile(t, t.TempDir(), "ca.yaml", withCA, 0o600), time.Now())
			return err
		}, "write a kubeconfig"},
		{"token of a discovery file", func() error {
			file, err := ReadDiscoveryFile(writeFile(t, t.TempDir(), "token.yaml", withToken, 0o600), time.Now())
			if err != nil {
				return err
			}
			_, err = file.Credential()
			return err
		}, "give its user a token or a client certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refused := func(t *testing.T) {
				t.Helper()
				done := make(chan error, 1)
				go func() { done <- test.read() }()
				select {
				case err := <-done:
					wantFault(t, err, fault.Usage, path+" is not a regular file")
					if !strings.Contains(fault.Remedy(err), test.remedy) {
						t.Errorf("the remedy is %q, want one that says %q", fault.Remedy(err), test.remedy)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("it waits for the other side")
				}
			}
			t.Run("without a writer", refused)
			writer, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer writer.Close()
			t.Run("with a writer", refused)
		})
	}
}
