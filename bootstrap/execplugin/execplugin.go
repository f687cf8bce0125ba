// Package execplugin is the credential that a program prints: a credential plugin of client-go, by the protocol
// client.authentication.k8s.io/v1
// (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins).
//
// client-go's own runner cannot be stopped while the program runs, gives it the whole environment, and lets it write to
// standard error: an agent needs a time limit, and a log without secrets.
//
// # What it promises
//
// The program gets nothing to read, an environment of its own, and a time limit, after which it is killed with all that it
// has started. What it prints is used until it expires, and asked for anew after [Credential.Forget]. A program that others
// could have changed is not run. What it prints is in no error. On Windows it is not looked at who could have
// changed it.
//
// # How it fails
//
// With an error of a class (package fault) where the program cannot be right; with any other where it failed, which may
// pass.
package execplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	auth "k8s.io/client-go/pkg/apis/clientauthentication/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate/group"
)

const (
	apiVersion = "client.authentication.k8s.io/v1"
	kind       = "ExecCredential"
	maxOutput  = 1 << 20 // bytes; a real one is a few kilobytes
	leeway     = 10 * time.Second
	grace      = time.Second // what a killed program's descendants have to let go of its output
)

// Config says what is run.
type Config struct {
	Program string   // absolute path
	Args    []string // its arguments
	Env     []string // NAME=VALUE
	Timeout time.Duration
	Dir     string // what Program is below, on this machine; "" is /
}

// Credential is a [bootstrap.Credential] that runs the program. It is safe for concurrent use.
type Credential struct {
	config Config

	mu    sync.Mutex // guards what follows, and is held while the program runs
	proof *bootstrap.Proof
	until time.Time // when it expires; zero if that was not said
	got   time.Time // when the program printed it
}

// New returns the credential. Nothing is run yet.
func New(config Config) *Credential { return &Credential{config: config} }

// String implements [bootstrap.Credential].
func (c *Credential) String() string { return "the credential of the program " + c.config.Program }

// Remedy implements [bootstrap.Credential].
func (c *Credential) Remedy() string {
	words := []string{"KUBERNETES_EXEC_INFO=" + fault.Word(info), fault.Word(filepath.Join(top, c.config.Dir, c.config.Program))}
	for _, arg := range c.config.Args {
		words = append(words, fault.Word(arg))
	}
	var with strings.Builder
	for _, variable := range c.config.Env {
		name, _, _ := strings.Cut(variable, "=")
		with.WriteString(", with " + name + " set")
	}
	return "run it by hand" + with.String() + ", and look what it prints: " + strings.Join(words, " ")
}

// Forget makes the next use run the program.
func (c *Credential) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proof = nil
}

// Proof implements [bootstrap.Credential].
func (c *Credential) Proof(ctx context.Context) (*bootstrap.Proof, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proof != nil && (c.until.IsZero() || time.Now().Add(leeway).Before(c.until)) {
		return c.proof, nil
	}
	out, err := c.run(ctx)
	if err != nil {
		return nil, err
	}
	proof, until, err := parse(out)
	if err != nil {
		return nil, fault.New(fault.Usage, c.Remedy(), "the credential plugin %s printed no %s of %s: %w", c.config.Program, kind, apiVersion, err)
	}
	if until.IsZero() || !proof.NotAfter.IsZero() && proof.NotAfter.Before(until) {
		until = proof.NotAfter
	}
	c.proof, c.until, c.got = proof, until, time.Now()
	return proof, nil
}

// Held implements [bootstrap.Holder].
func (c *Credential) Held() *bootstrap.Proof {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proof != nil && c.proof.IsValid(c.got) && !c.proof.IsValid(time.Now()) {
		return nil
	}
	return c.proof
}

// info is what a plugin is told. Nobody is there to be asked, and what it prints must be of this version.
const info = `{"apiVersion":"` + apiVersion + `","kind":"` + kind + `","spec":{"interactive":false}}`

// alive is how often it is told that a plugin runs, which may do so for as long as the operator allows.
const alive = 20 * time.Second

// runUnder runs a program, and ends with it all that it has started. Within its time limit that is progress, see [bootstrap.Progress].
func runUnder(limited context.Context, cmd *exec.Cmd) error {
	all := group.New(cmd)
	cmd.Cancel = all.Kill
	if err := all.Start(); err != nil {
		return err
	}
	defer func() {
		_ = all.Kill() // what it left behind; mostly there is nothing
		_ = all.Close()
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ticker := time.NewTicker(alive)
	defer ticker.Stop()
	for {
		bootstrap.Progress(limited)
		select {
		case err := <-ended:
			return err
		case <-limited.Done():
			return <-ended
		case <-ticker.C:
		}
	}
}

func (c *Credential) run(ctx context.Context) ([]byte, error) {
	program, err := check(filepath.Join(top, c.config.Dir, c.config.Program))
	if err != nil {
		return nil, fault.New(fault.Usage, "give a program that root owns and nobody else can write to", "the credential plugin is not run: %w", err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, c.config.Timeout, fmt.Errorf("it was stopped at its time limit of %s", c.config.Timeout))
	defer cancel()
	out := &bounded{left: maxOutput}
	cmd := exec.CommandContext(limited, program, c.config.Args...) //nolint:gosec // the program is what the operator configured: that it is variable is the point
	cmd.Args[0] = c.config.Program                                 // a program may go by the name that it is called by
	cmd.Dir, cmd.Stdout, cmd.WaitDelay = "/", out, grace
	cmd.Env = append([]string{"PATH=" + path, "HOME=/", "LANG=C", "KUBERNETES_EXEC_INFO=" + info}, c.config.Env...)
	err = runUnder(limited, cmd)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case limited.Err() != nil:
		err = context.Cause(limited)
	case out.left < 0:
		return nil, fault.New(fault.Usage, c.Remedy(), "the credential plugin %s printed more than %d bytes", c.config.Program, maxOutput)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) { // that one has ended well, and what it left behind held its output
		return nil, fmt.Errorf("the credential plugin %s failed: %w (what it says is not logged)", c.config.Program, err)
	}
	return out.kept.Bytes(), nil
}

// check returns the file that a program's path leads to, and refuses one that others could have changed or replaced: neither
// it nor a directory above it or above a link to it may be somebody else's, or writable by others. In a directory whose
// sticky bit is set nobody replaces what is not his (chmod(2)).
func check(program string) (string, error) {
	file, err := filepath.EvalSymlinks(program)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(file); err != nil {
		return "", err
	} else if !isProgram(info) {
		return "", fmt.Errorf("%s is no program", file)
	}
	for _, name := range append(above(program), append(above(file), file)...) {
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		if err := checkRights(name, info); err != nil {
			return "", err
		}
	}
	return file, nil
}

// above returns the directories above a path, the root first.
func above(path string) []string {
	var dirs []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		dirs = append([]string{dir}, dirs...)
		if dir == filepath.Dir(dir) {
			return dirs
		}
	}
}

// parse reads what a plugin printed. The errors do not repeat any of it but its own words for what it is.
func parse(out []byte) (*bootstrap.Proof, time.Time, error) {
	var credential auth.ExecCredential
	if err := json.Unmarshal(out, &credential); err != nil {
		return nil, time.Time{}, errors.New("it is no JSON of that form")
	}
	status := credential.Status
	switch {
	case credential.APIVersion != apiVersion || credential.Kind != kind:
		return nil, time.Time{}, fmt.Errorf("it calls itself %.60q of %.60q", credential.Kind, credential.APIVersion)
	case status == nil || status.Token == "" && status.ClientCertificateData == "":
		return nil, time.Time{}, errors.New("there is neither a token nor a client certificate in it")
	case (status.ClientCertificateData == "") != (status.ClientKeyData == ""):
		return nil, time.Time{}, errors.New("there is only one of client certificate and key in it")
	}
	proof := &bootstrap.Proof{}
	if status.Token != "" {
		if err := bootstrap.CheckBearer(status.Token); err != nil {
			return nil, time.Time{}, fmt.Errorf("its token %w", err)
		}
		proof = bootstrap.ProofOfToken(bootstrap.NewSecret(status.Token))
	}
	if status.ClientCertificateData != "" {
		pair, err := bootstrap.ParseKeyPair([]byte(status.ClientCertificateData), []byte(status.ClientKeyData))
		if err != nil {
			return nil, time.Time{}, err
		}
		certificate := bootstrap.ProofOfCertificate(pair)
		certificate.Token = proof.Token
		if end := proof.NotAfter; !end.IsZero() && end.Before(certificate.NotAfter) {
			certificate.NotAfter = end
		}
		proof = certificate
	}
	var until time.Time
	if status.ExpirationTimestamp != nil {
		until = status.ExpirationTimestamp.Time
	}
	return proof, until, nil
}

// bounded keeps what was written up to a size, and notes whether there was more. The buffer is not embedded: its ReadFrom,
// which io.Copy prefers, knows no bound.
type bounded struct {
	kept bytes.Buffer
	left int
}

func (b *bounded) Write(data []byte) (int, error) {
	b.left -= len(data)
	if b.left < 0 {
		return len(data), nil // so that the program ends by itself
	}
	return b.kept.Write(data)
}
