package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/testbed"
)

const (
	// leastRotations is how many rotations a kubelet must not notice.
	leastRotations = 20
	// leastWatch is for how long: client-go looks at its client's certificate at each handshake and every five minutes
	// (transport/cert_rotation.go), and the one that the kubelet began with expires after ten.
	leastWatch = 11 * time.Minute
	// mostWatch is when something must be wrong.
	mostWatch = 15 * time.Minute
	// mostGap is how long a Lease may not have been renewed: a kubelet does it every ten seconds, and its Node is lost
	// after forty.
	mostGap = 20 * time.Second
)

// shortLived has certificates rotated about every half minute: the signer backdates them by five minutes, so that a third
// of their fifteen minutes has passed when they are issued.
const shortLived = `
cluster: {servers: ["$SERVER"], caCertHashes: ["$PIN"]}
certificates:
- {name: kubelet-client, lifetime: 10m}
rotateAfter: {minPercent: 36, maxPercent: 37}
`

// TestTwentyRotations shows that a real kubelet does not notice that its certificate is rotated: its requests go on, with
// ever newer certificates, long after the first one has expired.
func TestTwentyRotations(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes twelve minutes")
	}
	needKubelet(t)
	cp := testbed.New(t, testbed.Options{})
	nodejoin, err := buildProgram(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(cp, t.TempDir(), "twenty-rotations", nodejoin)
	if err := errors.Join(m.configure(shortLived), m.join(t.Context()), m.startKubelet(t.Context(), testbed.KubeletOptions{})); err != nil {
		t.Fatal(err)
	}
	inBackground(t, func(ctx context.Context) error {
		o, err := m.observe(ctx)
		if err != nil {
			return err
		}
		t.Log(o)
		return errors.Join(m.checkRequests(ctx, o), m.checkKubelet(ctx, o), o.checkUsage(), m.checkEnd())
	})
}

// observation is what was seen of a machine.
type observation struct {
	began, ended time.Time
	certificates []*x509.Certificate // on disk, in turn
	seen         []time.Time         // and when each was
	usages       []usage             // with each of them, once it had been there for a while
	leases       renewals
}

// settled is how long after a rotation the agent is done with it.
const settled = 10 * time.Second

// observe looks at the machine once a second, until it has rotated often enough for long enough.
func (m *machine) observe(ctx context.Context) (*observation, error) {
	o := &observation{began: time.Now()}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-m.agent.Done():
			return nil, fmt.Errorf("the agent has ended: %w\n%s", m.agent.Err(), m.agent.Tail(20))
		case <-m.kubelet.Done():
			return nil, fmt.Errorf("the kubelet has ended: %w\n%s", m.kubelet.Err(), m.kubelet.Tail(20))
		case <-ticker.C:
		}
		o.leases.look(ctx, m.cp, m.node)
		current, err := m.certificate()
		if err != nil {
			return nil, err // it is never away
		}
		n := len(o.certificates)
		if n == 0 || !current.Equal(o.certificates[n-1]) {
			o.certificates, o.seen = append(o.certificates, current), append(o.seen, time.Now())
			continue
		}
		if len(o.usages) < n && time.Since(o.seen[n-1]) >= settled {
			now, err := m.usage(ctx)
			if err != nil {
				return nil, err
			}
			o.usages = append(o.usages, now)
		}
		o.ended = time.Now()
		switch watched := o.ended.Sub(o.began); {
		case len(o.usages) > leastRotations && watched >= leastWatch:
			return o, nil
		case watched >= mostWatch:
			return nil, fmt.Errorf("%d certificates in %s\n%s", n, watched, m.agent.Tail(20))
		}
	}
}

// String tells the figures.
func (o *observation) String() string {
	gap, _ := o.leases.longest(o.ended)
	first, last := o.usages[2], o.usages[len(o.usages)-1]
	return fmt.Sprintf("%d rotations in %s; %d renewals of the Lease, at most %s apart; the agent after 2 rotations: %+v, after %d: %+v",
		len(o.certificates)-1, o.ended.Sub(o.began).Round(time.Second), len(o.leases.times), gap.Round(time.Millisecond), first, len(o.usages)-1, last)
}

// checkRequests looks at what the agent asked for: one request for each certificate, each with a key of its own, by the
// token once and by the node itself from then on.
func (m *machine) checkRequests(ctx context.Context, o *observation) error {
	list, err := m.cp.Client().CertificatesV1().CertificateSigningRequests().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	var wrong []error
	keys := map[string]string{}
	byToken, byNode := 0, 0
	for _, object := range list.Items {
		request, err := requestOf(&object)
		if err != nil {
			return err
		}
		if key := string(request.RawSubjectPublicKeyInfo); keys[key] != "" {
			wrong = append(wrong, fmt.Errorf("%s and %s have the same key", keys[key], object.Name))
		} else {
			keys[key] = object.Name
		}
		switch by := object.Spec.Username; {
		case strings.HasPrefix(by, "system:bootstrap:"):
			byToken++
		case by == "system:node:"+m.node:
			byNode++
		default:
			wrong = append(wrong, fmt.Errorf("%s is by %s", object.Name, by))
		}
	}
	// The next may be under way by now.
	if rotations := len(o.certificates) - 1; byToken != 1 || byNode != rotations && byNode != rotations+1 {
		wrong = append(wrong, fmt.Errorf("%d requests by the token and %d by the node for %d rotations", byToken, byNode, rotations))
	}
	certified := map[string]bool{}
	for _, c := range o.certificates {
		certified[string(c.RawSubjectPublicKeyInfo)] = true
	}
	if len(certified) != len(o.certificates) {
		wrong = append(wrong, fmt.Errorf("%d certificates have %d keys", len(o.certificates), len(certified)))
	}
	return errors.Join(wrong...)
}

// complaint is a line of a kubelet's log that tells of trouble with who it is or whom it trusts.
var complaint = regexp.MustCompile(`^[IWEF]\d{4} .*(Unauthorized|Forbidden|forbidden|x509|tls: |[Cc]ertificate.*(expired|failed))|^F\d{4} `)

// checkKubelet looks at how the kubelet has fared.
func (m *machine) checkKubelet(ctx context.Context, o *observation) error {
	var wrong []error
	if gap, at := o.leases.longest(o.ended); gap > mostGap {
		wrong = append(wrong, fmt.Errorf("the Lease was not renewed for %s from %s on", gap, at))
	}
	if lines, err := linesOf(m.kubelet, complaint); err != nil || len(lines) != 0 {
		wrong = append(wrong, err, fmt.Errorf("the kubelet complains:\n%s", strings.Join(lines, "\n")))
	}
	if _, err := m.cp.Client().CoreV1().Nodes().Get(ctx, m.node, meta.GetOptions{}); err != nil {
		wrong = append(wrong, err)
	}
	events, err := m.answered(ctx)
	if err != nil {
		return errors.Join(append(wrong, err)...)
	}
	wrong = append(wrong, refusals(events))
	issued := map[string]int{}
	for i, c := range o.certificates {
		issued[fingerprint(c)] = i
	}
	used := map[int]int{}
	var late int
	for _, e := range events {
		if !isKubelet(&e) {
			continue
		}
		i, known := issued[credentialOf(&e)]
		if !known {
			wrong = append(wrong, fmt.Errorf("the kubelet's request %s has the credential %q", e.RequestURI, e.User.Extra))
			continue
		}
		used[i]++
		if e.RequestReceivedTimestamp.After(o.certificates[0].NotAfter) && e.ResponseStatus.Code == http.StatusOK {
			late++
		}
	}
	// The one that it began with, and those of the looks after five and ten minutes.
	if len(used) < 3 || late == 0 {
		wrong = append(wrong, fmt.Errorf("the kubelet's requests by certificate: %v; %d of them after the first had expired", used, late))
	}
	return errors.Join(wrong...)
}

// checkUsage compares what the agent needed in the first half of the time with what it needed in the second.
func (o *observation) checkUsage() error {
	var wrong []error
	for _, of := range []struct {
		what  string
		slack int // far below one for each rotation; a goroutine or two come and go
		get   func(usage) int
	}{
		{"kB resident", 2048, func(u usage) int { return u.kilobytes }},
		{"open files", 0, func(u usage) int { return u.files }},
		{"goroutines", 2, func(u usage) int { return u.goroutines }},
	} {
		var numbers []int
		for _, u := range o.usages[2:] { // from where the agent has begun
			numbers = append(numbers, of.get(u))
		}
		if grows(numbers, of.slack) {
			wrong = append(wrong, fmt.Errorf("the %s grow: %v", of.what, numbers))
		}
	}
	return errors.Join(wrong...)
}

// grows reports whether the second half of some numbers is higher than the first, the lowest of it as well as the highest: what
// the agent gives back when it has nothing to do for long comes and goes with the moment of the next rotation, which is drawn.
func grows(numbers []int, slack int) bool {
	first, second := numbers[:len(numbers)/2], numbers[len(numbers)/2:]
	return slices.Min(second) > slices.Min(first)+slack && slices.Max(second) > slices.Max(first)+slack
}

func TestGrows(t *testing.T) {
	for _, test := range []struct {
		numbers []int
		want    bool
	}{
		{[]int{10, 10, 10, 10}, false},
		{[]int{15, 21, 15, 15, 21, 21, 21, 15}, false},
		{[]int{15, 15, 21, 21}, true},
		{[]int{10, 11, 12, 13, 14, 15, 16, 17}, true},
		{[]int{15, 21, 17, 23, 19, 25, 21, 27}, true}, // comes and goes, and grows
	} {
		if got := grows(test.numbers, 1); got != test.want {
			t.Errorf("%v: %t", test.numbers, got)
		}
	}
}

// checkEnd ends the agent, which must have had no trouble.
func (m *machine) checkEnd() error {
	lines, err := linesOf(m.agent, regexp.MustCompile(`level=(WARN|ERROR)|DATA RACE|^panic`))
	if len(lines) != 0 {
		err = errors.Join(err, fmt.Errorf("the agent complains:\n%s", strings.Join(lines, "\n")))
	}
	begun := time.Now()
	err = errors.Join(err, m.agent.Stop(), m.agent.Err())
	if took := time.Since(begun); took > 5*time.Second {
		err = errors.Join(err, fmt.Errorf("the agent took %s to end", took))
	}
	return err
}
