//go:build unix

package execplugin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/test/expect"
)

const canary = "canary-token" // what a plugin prints, on either way, is in no error

// host is a machine with one program, which notes each of its runs.
type host struct {
	dir, program, runs string
}

// newHost writes a program of the shell. Its body finds the directory in $0.
func newHost(t *testing.T, body string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{dir: dir, program: filepath.Join(dir, "plugin"), runs: filepath.Join(dir, "runs")}
	h.write(t, "#!/bin/sh\ndir=${0%/*}\necho run >> $dir/runs\n"+body)
	return h
}

func (h *host) write(t *testing.T, script string) {
	t.Helper()
	if err := os.WriteFile(h.program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
}

// put writes a file beside the program.
func (h *host) put(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ran returns how often the program ran.
func (h *host) ran() int {
	data, _ := os.ReadFile(h.runs)
	return strings.Count(string(data), "run\n")
}

func (h *host) credential(args ...string) *Credential {
	return New(Config{Program: h.program, Args: args, Timeout: time.Minute})
}

// printing is a program that prints a credential with this status.
func printing(t *testing.T, status map[string]any) *host {
	t.Helper()
	h := newHost(t, "cat $dir/out\n")
	h.print(t, status)
	return h
}

func (h *host) print(t *testing.T, status map[string]any) {
	t.Helper()
	data, err := json.Marshal(map[string]any{"apiVersion": apiVersion, "kind": kind, "status": status})
	if err != nil {
		t.Fatal(err)
	}
	h.put(t, "out", string(data))
}

func newPair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "system:node:a"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

// wantFault expects a fault without what was printed.
func wantFault(t *testing.T, err error, class fault.Class, want string) {
	t.Helper()
	expect.Fault(t, err, class, want)
	if text := fmt.Sprintf("%v %+v %#v %s", err, err, err, fault.Remedy(err)); strings.Contains(text, "canary") {
		t.Errorf("what was printed is in %q", text)
	}
}

func TestProof(t *testing.T) {
	cert, key := newPair(t)
	for _, test := range []struct {
		name   string
		status map[string]any
		token  string
		user   string
	}{
		{"a token", map[string]any{"token": canary}, canary, ""},
		{"a certificate", map[string]any{"clientCertificateData": cert, "clientKeyData": key}, "", "system:node:a"},
		{"both", map[string]any{"token": canary, "clientCertificateData": cert, "clientKeyData": key}, canary, "system:node:a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := printing(t, test.status)
			c := h.credential()
			for range 3 {
				proof, err := c.Proof(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				user := ""
				if proof.Certificate != nil {
					user = proof.Certificate.Leaf.Subject.CommonName
				}
				if proof.Token.Reveal() != test.token || user != test.user {
					t.Errorf("the token %q and the certificate of %q", proof.Token.Reveal(), user)
				}
				if text := fmt.Sprintf("%s %s %+v %v", c, c.Remedy(), proof, *proof); strings.Contains(text, canary) {
					t.Errorf("the token is in %q", text)
				}
			}
			if n := h.ran(); n != 1 {
				t.Errorf("it ran %d times for three uses", n)
			}
			c.Forget()
			if _, err := c.Proof(t.Context()); err != nil || h.ran() != 2 {
				t.Errorf("after Forget: %v, it ran %d times", err, h.ran())
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	for _, test := range []struct {
		name string
		in   time.Duration
		ran  int // for three uses
	}{
		{"in an hour", time.Hour, 1},
		{"within the leeway", leeway - 2*time.Second, 3},
		{"an hour ago", -time.Hour, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := printing(t, map[string]any{"token": canary, "expirationTimestamp": time.Now().Add(test.in).UTC().Format(time.RFC3339)})
			c := h.credential()
			for range 3 {
				if _, err := c.Proof(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := h.ran(); n != test.ran {
				t.Errorf("it ran %d times, want %d", n, test.ran)
			}
		})
	}
}

// TestFailureKeepsNothing has the program fail once: the next use runs it again.
func TestFailureKeepsNothing(t *testing.T) {
	h := newHost(t, "echo "+canary+"; echo "+canary+" >&2; test -e $dir/out || exit 1\n")
	c := h.credential("--audience", "a b")
	_, err := c.Proof(t.Context())
	wantFault(t, err, 0, "the credential plugin "+h.program+" failed: exit status 1")
	if remedy := c.Remedy(); !strings.HasSuffix(remedy, h.program+" --audience 'a b'") {
		t.Errorf("%q does not say how to run it", remedy)
	}
	h.put(t, "out", "")
	_, err = c.Proof(t.Context())
	wantFault(t, err, fault.Usage, "printed no ExecCredential")
	if n := h.ran(); n != 2 {
		t.Errorf("it ran %d times", n)
	}
}

func TestRubbish(t *testing.T) {
	cert, key := newPair(t)
	_, otherKey := newPair(t)
	credential := func(version, kind, status string) string {
		return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"status":%s}`, version, kind, status)
	}
	status := func(fields map[string]string) string {
		data, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return credential(apiVersion, kind, string(data))
	}
	for _, test := range []struct{ name, out, want string }{
		{"nothing", "", "it is no JSON of that form"},
		{"a text", canary, "it is no JSON of that form"},
		{"a bare token in quotes", `"` + canary + `"`, "it is no JSON of that form"},
		{"another form", credential(apiVersion, kind, `"`+canary+`"`), "it is no JSON of that form"},
		{"two", status(map[string]string{"token": canary}) + status(nil), "it is no JSON of that form"},
		{"another version", credential("client.authentication.k8s.io/v1beta1", kind, `{"token":"`+canary+`"}`), `it calls itself "ExecCredential" of "client.authentication.k8s.io/v1beta1"`},
		{"another kind", credential(apiVersion, "Secret", `{"token":"`+canary+`"}`), `it calls itself "Secret" of "client.authentication.k8s.io/v1"`},
		{"no status", `{"apiVersion":"` + apiVersion + `","kind":"` + kind + `"}`, "there is neither a token nor a client certificate in it"},
		{"an empty status", status(nil), "there is neither a token nor a client certificate in it"},
		{"a certificate without a key", status(map[string]string{"clientCertificateData": cert}), "there is only one of client certificate and key in it"},
		{"a key beside a token", status(map[string]string{"token": canary, "clientKeyData": key}), "there is only one of client certificate and key in it"},
		{"another's key", status(map[string]string{"clientCertificateData": cert, "clientKeyData": otherKey}), "the private key is not the certificate's"},
		{"a token with a line break", status(map[string]string{"token": canary + "\n"}), "its token is not a bearer token: it has white space in it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, "cat $dir/out\n")
			h.put(t, "out", test.out)
			c := h.credential()
			_, err := c.Proof(t.Context())
			wantFault(t, err, fault.Usage, "the credential plugin "+h.program+" printed no ExecCredential of "+apiVersion+": "+test.want)
			for line := range strings.Lines(key + otherKey) {
				if line = strings.TrimSpace(line); len(line) > 20 && !strings.Contains(line, "-----") && strings.Contains(err.Error(), line[:16]) {
					t.Errorf("the key is in %q", err)
				}
			}
		})
	}
}

func TestTooMuch(t *testing.T) {
	h := newHost(t, "head -c "+strconv.Itoa(maxOutput+1)+" /dev/zero\n")
	_, err := h.credential().Proof(t.Context())
	wantFault(t, err, fault.Usage, fmt.Sprintf("printed more than %d bytes", maxOutput))
}

// TestTimeLimit has a program hang whose child holds on to its output: both are killed at the limit.
func TestTimeLimit(t *testing.T) {
	h := newHost(t, "echo "+canary+"\nsleep 600 &\necho $! > $dir/child\necho $$ > $dir/parent\nwait\n")
	c := New(Config{Program: h.program, Timeout: time.Second})
	start := time.Now()
	_, err := c.Proof(t.Context())
	wantFault(t, err, 0, "it was stopped at its time limit of 1s")
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	h.wantDead(t, "parent", "child")
}

// wantDead waits until the processes whose ids are in files are gone; a zombie that nobody waits for yet is.
func (h *host) wantDead(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(h.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); lives(pid); <-time.After(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the %s lives on", name)
			}
		}
	}
}

func lives(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

// TestCancelled stops the program with the caller.
func TestCancelled(t *testing.T) {
	h := newHost(t, "echo $$ > $dir/parent\nmkfifo $dir/wait\ncat $dir/wait\n")
	enough := errors.New("the operator had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error)
	go func() {
		_, err := h.credential().Proof(ctx)
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		if data, _ := os.ReadFile(filepath.Join(h.dir, "parent")); strings.HasSuffix(string(data), "\n") {
			break
		}
		if time.Now().After(deadline) {
			t.Error("it does not start")
			break
		}
	}
	cancel(enough)
	if err := <-done; !errors.Is(err, enough) || fault.IsFinal(err) {
		t.Errorf("%v", err)
	}
	h.wantDead(t, "parent")
}

// TestEnvironment shows all that the program gets: nothing of the agent's own environment, and nothing to read.
func TestEnvironment(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
	t.Setenv("NODEJOIN_TEST", "inherited")
	h := newHost(t, "tr '\\0' '\\n' < /proc/self/environ > $dir/env\npwd > $dir/pwd\ncat > $dir/stdin\necho \"$@\" > $dir/args\ncat $dir/out\n")
	h.print(t, map[string]any{"token": canary})
	c := New(Config{Program: h.program, Args: []string{"a", "b c"}, Env: []string{"A=1", "B=x y"}, Timeout: time.Minute})
	if _, err := c.Proof(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(h.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(string(data), "\n")
	}
	got := map[string]string{}
	for line := range strings.Lines(read("env") + "\n") {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !slices.Contains([]string{"PWD", "OLDPWD", "SHLVL", "_"}, name) { // the shell's own
			got[name] = value
		}
	}
	want := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C", "A": "1", "B": "x y",
		"KUBERNETES_EXEC_INFO": `{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","spec":{"interactive":false}}`,
	}
	if !maps.Equal(got, want) {
		t.Errorf("the environment is %q, want %q", got, want)
	}
	if read("pwd") != "/" || read("stdin") != "" || read("args") != "a b c" {
		t.Errorf("in %q, with %q to read and the arguments %q", read("pwd"), read("stdin"), read("args"))
	}
}

// TestProgram refuses to run what others could have changed.
func TestProgram(t *testing.T) {
	chmod := func(t *testing.T, path string, mode fs.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		change func(t *testing.T, h *host)
		want   string // "" is run
	}{
		{"as it is", func(*testing.T, *host) {}, ""},
		{"writable by the group", func(t *testing.T, h *host) { chmod(t, h.program, 0o770) }, "others can write to "},
		{"writable by all", func(t *testing.T, h *host) { chmod(t, h.program, 0o702) }, "(mode 0702)"},
		{"no program", func(t *testing.T, h *host) { chmod(t, h.program, 0o600) }, "is no program"},
		{"missing", func(t *testing.T, h *host) { rename(t, h) }, "no such file or directory"},
		{"a directory", func(t *testing.T, h *host) {
			rename(t, h)
			if err := os.Mkdir(h.program, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is no program"},
		{"a link", func(t *testing.T, h *host) { rename(t, h); link(t, h, "elsewhere") }, ""},
		{"a link to one that is writable by all", func(t *testing.T, h *host) {
			rename(t, h)
			chmod(t, filepath.Join(h.dir, "elsewhere"), 0o777)
			link(t, h, "elsewhere")
		}, "others can write to "},
		{"a link that leads nowhere", func(t *testing.T, h *host) { rename(t, h); link(t, h, "nowhere") }, "no such file or directory"},
		{"in a directory that is writable by all", func(t *testing.T, h *host) { chmod(t, h.dir, 0o777) }, "others can write to "},
		{"in a directory like /tmp", func(t *testing.T, h *host) { chmod(t, h.dir, 0o777|fs.ModeSticky) }, ""},
		{"of another user", func(t *testing.T, h *host) { chown(t, h.program) }, "belongs to the user 4242"},
		{"in a directory of another user", func(t *testing.T, h *host) { chown(t, h.dir) }, "belongs to the user 4242"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := printing(t, map[string]any{"token": canary})
			test.change(t, h)
			_, err := h.credential().Proof(t.Context())
			if test.want == "" {
				if err != nil || h.ran() != 1 {
					t.Errorf("%v, it ran %d times", err, h.ran())
				}
				return
			}
			wantFault(t, err, fault.Usage, test.want)
			wantFault(t, err, fault.Usage, "the credential plugin is not run: ")
			if h.ran() != 0 {
				t.Error("it was run")
			}
		})
	}
}

func rename(t *testing.T, h *host) {
	t.Helper()
	if err := os.Rename(h.program, filepath.Join(h.dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, h *host, to string) {
	t.Helper()
	if err := os.Symlink(to, h.program); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string) {
	t.Helper()
	expect.Root(t)
	if err := os.Chown(path, 4242, -1); err != nil {
		t.Fatal(err)
	}
}

// TestDir runs the program of a machine whose files are below a directory.
func TestDir(t *testing.T) {
	h := printing(t, map[string]any{"token": canary})
	c := New(Config{Program: "/plugin", Dir: h.dir, Timeout: time.Minute})
	proof, err := c.Proof(t.Context())
	if err != nil || proof.Token != bootstrap.NewSecret(canary) {
		t.Errorf("%+v, %v", proof, err)
	}
	if c.String() != "the credential of the program /plugin" {
		t.Errorf("String() = %q", c.String())
	}
}

// TestLinks runs what a link leads to, where nobody else could have changed either.
func TestLinks(t *testing.T) {
	h := printing(t, map[string]any{"token": canary})
	dir := t.TempDir()
	link := filepath.Join(dir, "sub", "plugin")
	for _, err := range []error{os.Mkdir(filepath.Dir(link), 0o755), os.Symlink(h.program, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func() error {
		_, err := New(Config{Program: link, Timeout: time.Minute}).Proof(t.Context())
		return err
	}
	if err := run(); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // above the link's own directory
		t.Fatal(err)
	}
	wantFault(t, run(), fault.Usage, "others can write to "+dir)
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := run(); err != nil {
		t.Errorf("in a directory like /tmp: %v", err)
	}
}

// TestLeftBehind takes what a program has printed that leaves a child behind with its output.
func TestLeftBehind(t *testing.T) {
	h := newHost(t, "sleep 600 &\necho $! > $dir/child\ncat $dir/out\n")
	h.print(t, map[string]any{"token": canary})
	if _, err := h.credential().Proof(t.Context()); err != nil {
		t.Error(err)
	}
	h.wantDead(t, "child")
}
