package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/test/testbed"
)

const (
	// reread is within which time client-go looks at a CA file again: five minutes, at the next request
	// (transport/ca_rotation.go).
	reread = 6 * time.Minute
	// aftermath is how long after an outage it may still be felt: the last request that it delayed, and the next attempt.
	aftermath = 15 * time.Second
)

// followsFast looks at the cluster's CA bundle all the time, and notes what a hook is told.
const followsFast = shortLived + `
trust: {interval: 2s}
hooks:
- {name: note, on: [ca], command: [/bin/sh, "$DIR/hook.sh"]}
`

// noteHook writes down what has changed, and how many certificates the CA bundle has.
const noteHook = `echo "$NODEJOIN_CHANGED $(grep -c BEGIN "$NODEJOIN_CA_FILE")" >>"${0%/*}/hook.log"` + "\n"

// TestCARotation takes a cluster from one CA to another under a real kubelet and the agent, as Kubernetes has it: both are
// trusted, the new one issues everything, the new one alone is trusted. Neither notices more than the restarts.
func TestCARotation(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes eleven minutes")
	}
	needKubelet(t)
	cp := testbed.New(t, testbed.Options{})
	nodejoin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(cp, t.TempDir(), "ca-rotation", nodejoin)
	r := &caRotation{machine: m, old: cp.ServingCA}
	// Of the same name as the old one, as kubeadm's are.
	if r.next, err = testbed.NewCA(filepath.Join(cp.Dir, "pki", "next"), "kubernetes"); err != nil {
		t.Fatal(err)
	}
	kubelet := testbed.KubeletOptions{Args: []string{"--v=4"}} // it then says when it reads the CA file
	err = errors.Join(os.WriteFile(m.file("hook.sh"), []byte(noteHook), 0o600), m.configure(followsFast), m.join(t.Context()), m.startKubelet(t.Context(), kubelet))
	if err != nil {
		t.Fatal(err)
	}
	inBackground(t, func(ctx context.Context) error {
		err := r.tell(ctx)
		t.Log(r)
		return err
	})
}

// caRotation is the story of a rotation.
type caRotation struct {
	*machine
	old, next *testbed.CA

	outages []testbed.Outage
	bundles []string // the CA file's content, in turn
	leases  renewals
	ended   time.Time
}

// String tells the figures.
func (r *caRotation) String() string {
	gap, _ := r.longestGap()
	text := fmt.Sprintf("%d CA bundles; %d renewals of the Lease, at most %s apart but for the outages of", len(r.bundles), len(r.leases.times), gap.Round(time.Millisecond))
	for _, o := range r.outages {
		text += " " + o.To.Sub(o.From).Round(time.Millisecond).String()
	}
	return text
}

// tell goes through the rotation, watched, and then looks at what became of everyone's requests.
func (r *caRotation) tell(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(watching) })
	err := r.rotate(ctx)
	stop()
	watch.Wait()
	if err != nil {
		return err
	}
	return errors.Join(r.checkBundles(), r.checkHook(), r.checkRequests(ctx), r.checkKubelet(), r.checkAgent())
}

// watch follows the CA file and the Lease.
func (r *caRotation) watch(ctx context.Context) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			r.ended = time.Now()
			return
		case <-ticker.C:
		}
		text, err := os.ReadFile(r.file("ca.crt"))
		if err != nil {
			text = []byte(err.Error())
		}
		if len(r.bundles) == 0 || r.bundles[len(r.bundles)-1] != string(text) {
			r.bundles = append(r.bundles, string(text))
		}
		if n%20 == 0 {
			r.leases.look(ctx, r.cp, r.node)
		}
	}
}

func (r *caRotation) rotate(ctx context.Context) error {
	if err := r.step(ctx, testbed.PKI{Issuer: r.old, Trusted: []*testbed.CA{r.old, r.next}}); err != nil {
		return err
	}
	if err := errors.Join(r.tellsPin(ctx), r.kubeletHasRead(ctx, 1)); err != nil {
		return err
	}
	if err := r.step(ctx, testbed.PKI{Issuer: r.next, Trusted: []*testbed.CA{r.old, r.next}}); err != nil {
		return err
	}
	if err := eventually(ctx, 2*time.Minute, r.isOfNext); err != nil {
		return err
	}
	if err := r.step(ctx, testbed.PKI{Issuer: r.next, Trusted: []*testbed.CA{r.next}}); err != nil {
		return err
	}
	if err := r.kubeletHasRead(ctx, 2); err != nil {
		return err
	}
	end := time.NewTimer(2 * mostGap) // for the Lease to be renewed a few times more
	defer end.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-end.C:
		return nil
	}
}

// step takes one step of the rotation, and waits until the agent has followed it.
func (r *caRotation) step(ctx context.Context, pki testbed.PKI) error {
	outage, err := r.cp.Rotate(ctx, pki)
	if err != nil {
		return err
	}
	r.outages = append(r.outages, outage)
	return r.bundleBecomes(ctx, pki.Trusted...)
}

// bundleBecomes waits until the agent's CA bundle is made of some CAs.
func (m *machine) bundleBecomes(ctx context.Context, cas ...*testbed.CA) error {
	return eventually(ctx, patience, func() error {
		text, err := os.ReadFile(m.file("ca.crt"))
		if err == nil && !isBundle(string(text), cas...) {
			err = fmt.Errorf("the CA bundle is\n%s\nand the agent's log ends:\n%s", text, m.agent.Tail(20))
		}
		return err
	})
}

// isBundle reports whether a bundle is made of some CAs, in whatever order.
func isBundle(text string, cas ...*testbed.CA) bool {
	for _, ca := range cas {
		before, after, found := strings.Cut(text, string(ca.PEM))
		if !found {
			return false
		}
		text = before + after
	}
	return strings.TrimSpace(text) == ""
}

// tellsPin checks that the operator is told of the CA that the configured hashes do not name.
func (m *machine) tellsPinOf(ctx context.Context, ca *testbed.CA) error {
	err := m.await(ctx, "the new CA's hash is named", func(s *status.Status) bool {
		return strings.Contains(s.CA.UnpinnedNote, ca.Pin()) && strings.Contains(s.Text(time.Now()), ca.Pin())
	})
	lines, unread := linesOf(m.agent, regexp.MustCompile(`msg=notice text="the cluster has the CA .*, which no configured hash names.* remedy="add `+ca.Pin()))
	if err = errors.Join(err, unread); err == nil && len(lines) != 1 {
		err = fmt.Errorf("the agent has logged %q about the new CA", lines)
	}
	return err
}

func (r *caRotation) tellsPin(ctx context.Context) error { return r.tellsPinOf(ctx, r.next) }

// kubeletHasRead waits until the kubelet has found the CA file changed so many times.
func (r *caRotation) kubeletHasRead(ctx context.Context, times int) error {
	return eventually(ctx, reread, func() error {
		lines, err := linesOf(r.kubelet, regexp.MustCompile(`"Transport updated for CA rotation"`))
		if err == nil && len(lines) != times {
			err = fmt.Errorf("the kubelet has read a changed CA file %d times instead of %d", len(lines), times)
		}
		return err
	})
}

// isOfNext returns nil once the client certificate on disk is the new CA's.
func (r *caRotation) isOfNext() error {
	certificate, err := r.certificate()
	if err != nil {
		return err
	}
	return certificate.CheckSignatureFrom(r.next.Cert)
}

func (r *caRotation) checkBundles() error {
	wanted := [][]*testbed.CA{{r.old}, {r.old, r.next}, {r.next}}
	if !slices.EqualFunc(r.bundles, wanted, func(text string, cas []*testbed.CA) bool { return isBundle(text, cas...) }) {
		return fmt.Errorf("the CA file was, in turn:\n%s", strings.Join(r.bundles, "\n"))
	}
	return nil
}

// checkHook looks at what the hook was told: of the first bundle, of the wider one and of the narrower one.
func (r *caRotation) checkHook() error {
	notes, err := os.ReadFile(r.file("hook.log"))
	if want := "ca 1\nca 2\nca 1\n"; err == nil && string(notes) != want {
		err = fmt.Errorf("the hook noted %q instead of %q", notes, want)
	}
	return err
}

// felt reports whether an outage of the API server may have been felt at a moment.
func (r *caRotation) felt(at time.Time) bool {
	return slices.ContainsFunc(r.outages, func(o testbed.Outage) bool {
		return !at.Before(o.From.Truncate(time.Second)) && !at.After(o.To.Add(aftermath))
	})
}

// longestGap returns the longest time between two renewals of the Lease with no outage in it.
func (r *caRotation) longestGap() (gap time.Duration, from time.Time) {
	times := append(slices.Clone(r.leases.times), r.ended)
	for i, t := range times[:len(times)-1] {
		touched := slices.ContainsFunc(r.outages, func(o testbed.Outage) bool { return t.Before(o.To) && times[i+1].After(o.From) })
		if d := times[i+1].Sub(t); !touched && d > gap {
			gap, from = d, t
		}
	}
	return gap, from
}

// checkRequests looks at what the API server has answered, outages or not.
func (r *caRotation) checkRequests(ctx context.Context) error {
	events, err := r.answered(ctx)
	if err != nil {
		return err
	}
	events = slices.DeleteFunc(events, func(e testbed.AuditEvent) bool { // cut off by a restart
		return e.ResponseStatus.Code >= http.StatusInternalServerError && r.felt(e.StageTimestamp)
	})
	wrong := []error{refusals(events)}
	current, err := r.certificate()
	if err != nil {
		return err
	}
	end := r.outages[len(r.outages)-1].To
	credentials := map[string]bool{}
	for _, e := range events {
		if isKubelet(&e) && e.RequestReceivedTimestamp.After(end) {
			credentials[credentialOf(&e)] = true
		}
	}
	if len(credentials) == 0 || credentials[""] {
		wrong = append(wrong, fmt.Errorf("at last the kubelet has shown %v, and the certificate on disk is %s", credentials, fingerprint(current)))
	}
	if gap, from := r.longestGap(); gap > mostGap {
		wrong = append(wrong, fmt.Errorf("the Lease was not renewed for %s from %s on", gap, from))
	}
	return errors.Join(wrong...)
}

var (
	kubeletTrouble = regexp.MustCompile(`^[EWF]\d{4} `)
	agentTrouble   = regexp.MustCompile(`level=(WARN|ERROR)|not done yet|could not|DATA RACE|^panic`)
)

// ownHangUp is what a kubelet says of a request that it was just sending when it hung up by itself, since it has found a new
// certificate or CA in its files (client-go's transport/cert_rotation.go closes all connections then). It sends it again at once.
var ownHangUp = regexp.MustCompile(`use of closed network connection|http2: client connection (lost|force closed)`)

// checkKubelet looks at the kubelet's log: nothing of it may be about certificates, and nothing at all is wrong outside of the
// outages and its own start.
func (r *caRotation) checkKubelet() error {
	var wrong []error
	lines, err := linesOf(r.kubelet, complaint)
	if err != nil || len(lines) != 0 {
		wrong = append(wrong, err, fmt.Errorf("the kubelet complains:\n%s", strings.Join(lines, "\n")))
	}
	if lines, err = linesOf(r.kubelet, kubeletTrouble); err != nil {
		return err
	}
	for _, line := range lines {
		at, err := klogTime(line)
		if err != nil {
			return err
		}
		if !r.felt(at) && strings.Contains(line, r.cp.Endpoint) && !ownHangUp.MatchString(line) {
			wrong = append(wrong, fmt.Errorf("the kubelet's request failed: %s", line))
		}
	}
	return errors.Join(wrong...)
}

// klogTime returns the time of a line of a Kubernetes component's log, which has no year.
func klogTime(line string) (time.Time, error) {
	now := time.Now()
	at, err := time.ParseInLocation("20060102 15:04:05.000000", fmt.Sprintf("%d", now.Year())+line[1:min(len(line), 21)], time.Local)
	if err == nil && at.After(now.Add(24*time.Hour)) {
		at = at.AddDate(-1, 0, 0)
	}
	return at, err
}

// checkAgent looks at the agent's log, and ends it.
func (r *caRotation) checkAgent() error {
	lines, err := linesOf(r.agent, agentTrouble)
	wrong := []error{err}
	for _, line := range lines {
		stamp := timeInLog.FindStringSubmatch(line)
		if stamp == nil {
			wrong = append(wrong, errors.New(line))
			continue
		}
		at, err := time.Parse(time.RFC3339, stamp[1])
		if err != nil || !r.felt(at) {
			wrong = append(wrong, err, fmt.Errorf("the agent complains: %s", line))
		}
	}
	return errors.Join(append(wrong, r.agent.Stop(), r.agent.Err())...)
}
