package agent

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/rotate"
)

// skewWorthAWord is how far a clock must be off before a person is told.
const skewWorthAWord = time.Minute

// board is what the agent knows beside what is on disk: what its status shows. It outlives a reload of the configuration.
type board struct {
	mu         sync.Mutex
	node       string
	owner      Rotation
	ownerNote  string
	since      time.Time
	loaded     time.Time
	credential string
	unremoved  string // of a used token that cannot be removed here, as a note for a person
	endpoints  map[string]status.Endpoint
	order      []string // of the endpoints, as they were first seen
	skew       time.Duration
	skewTold   bool
	trust      status.CA
	failed     map[string]status.Problem // by hook and by what had changed
	config     *status.Problem           // why a changed configuration was refused
	watching   bool
	told       map[string]bool
	beats      map[string]time.Time // of the parts of the agent beside its keepers: when each last made progress
	notify     func()               // called after a change that a person would want to see; nil for nobody
}

func (b *board) init(config *Config) {
	b.node, b.owner = config.nodeName, config.rotation
	b.endpoints, b.failed = map[string]status.Endpoint{}, map[string]status.Problem{}
	b.told, b.beats = map[string]bool{}, map[string]time.Time{}
}

// mostTold bounds how many notices are remembered.
const mostTold = 256

// isNews reports whether something has not been told yet, and notes that it is.
func (b *board) isNews(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	told := b.told[text]
	if len(b.told) >= mostTold {
		clear(b.told)
	}
	b.told[text] = true
	return !told
}

// node returns the node's name.
func (a *Agent) node() string {
	a.board.mu.Lock()
	defer a.board.mu.Unlock()
	return a.board.node
}

func (a *Agent) setNode(name string) {
	a.board.mu.Lock()
	a.board.node = name
	a.board.mu.Unlock()
}

func (a *Agent) setOwner(owner Rotation, note string) {
	a.board.mu.Lock()
	changed := a.board.owner != owner || a.board.ownerNote != note
	a.board.owner, a.board.ownerNote = owner, note
	a.board.mu.Unlock()
	if changed && note != "" {
		a.log.Warn("the kubelet rotates its certificate by itself: the agent leaves that to it, and repairs and recovers", "why", note)
	}
}

func (a *Agent) uses(credential string) {
	a.works()
	a.board.mu.Lock()
	a.board.credential = credential
	a.board.mu.Unlock()
}

// observe notes how a connection to an endpoint ended.
func (a *Agent) observe(e bootstrap.Endpoint, err error) {
	b := &a.board
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.note(e, err, a.now())
	now.InUse = err == nil
	b.endpoints[now.Address] = now
	for address, other := range b.endpoints {
		if now.InUse && address != now.Address && other.InUse {
			other.InUse = false
			b.endpoints[address] = other
		}
	}
}

// observeReach notes whether an endpoint can be connected to that need not be the one in use.
func (a *Agent) observeReach(e bootstrap.Endpoint, err error) {
	a.board.mu.Lock()
	defer a.board.mu.Unlock()
	inUse := a.board.endpoints[e.String()].InUse
	now := a.board.note(e, err, a.now())
	now.InUse = inUse && err == nil
	a.board.endpoints[now.Address] = now
}

// note returns what is known of an endpoint after a try. The board is locked.
func (b *board) note(e bootstrap.Endpoint, err error, at time.Time) status.Endpoint {
	now := status.Endpoint{Address: e.String(), Alive: err == nil, CheckedAt: at}
	if err != nil {
		now.Error = err.Error()
	}
	if _, known := b.endpoints[now.Address]; !known {
		b.order = append(b.order, now.Address)
	}
	return now
}

// notesSkew notes how far this machine's clock is from the API server's.
func (a *Agent) notesSkew(conn *bootstrap.Connection) {
	skew, known := conn.Skew()
	if !known {
		return
	}
	b := &a.board
	b.mu.Lock()
	far := skew.Abs() >= skewWorthAWord
	tell := far && !b.skewTold
	b.skew, b.skewTold = skew, far
	b.mu.Unlock()
	if tell {
		a.changed()
		a.log.Warn("this machine's clock is far from the API server's", "skew", skew.Round(time.Second).String(), "remedy", "set it: timedatectl set-ntp true")
	}
}

// sawTrust notes a look at the cluster's CA bundle. A cluster that has none to offer is no failure: nothing comes of
// waiting, and nothing is lost until its CA is rotated.
func (a *Agent) sawTrust(source string, err error) {
	if errors.Is(err, bootstrap.ErrNoTrustBundle) {
		source = "nothing: " + err.Error()
	}
	a.board.mu.Lock()
	before := a.board.trust
	trust := &a.board.trust
	if trust.Source, trust.CheckedAt = source, a.now(); errors.Is(err, bootstrap.ErrNoTrustBundle) {
		err = nil
	}
	trust.Problem = a.problem(before.Problem, err, "")
	a.board.mu.Unlock()
	switch {
	case err != nil && (before.Problem == nil || before.Problem.Text != err.Error()):
		a.log.Warn("the cluster's CA bundle could not be followed", "source", source, "err", err, "remedy", fault.Remedy(err))
	case err == nil && before.Source != source:
		a.log.Info("the CA bundle is compared with the cluster's", "source", source)
	case (err == nil) == (before.Problem == nil):
		return
	}
	a.changed()
}

// hookEnded notes how a hook ended that was run after a change.
func (a *Agent) hookEnded(name, what string, err error) {
	defer a.changed()
	a.board.mu.Lock()
	defer a.board.mu.Unlock()
	key := name + " " + what
	if err == nil {
		delete(a.board.failed, key)
		return
	}
	a.board.failed[key] = status.Problem{Text: err.Error(), Remedy: "mend it; it is run again after the next change, or after: nodejoin service restart", Since: a.now(), Passes: true}
}

// problem returns a failure as the status shows it: since when the same has been so.
func (a *Agent) problem(before *status.Problem, err error, certificate string) *status.Problem {
	if err == nil {
		return nil
	}
	p := &status.Problem{Text: err.Error(), Remedy: fault.Remedy(err), Since: a.now(), Certificate: certificate, Passes: !fault.IsFinal(err)}
	if fault.HasClass(err) {
		p.Class = fault.ClassOf(err)
	}
	if before != nil && before.Class == p.Class {
		p.Since = before.Since
	}
	return p
}

// changed tells whoever wants to know at once that the status is another.
func (a *Agent) changed() {
	a.board.mu.Lock()
	notify := a.board.notify
	a.board.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// beat notes that the keeper makes progress. Its time has a monotonic reading, see [status.Status.Alive].
func (k *keeper) beat() {
	k.mu.Lock()
	k.view.Beat = time.Now()
	k.mu.Unlock()
}

// beat notes that another part of the agent makes progress.
func (a *Agent) beat(part string) {
	a.board.mu.Lock()
	a.board.beats[part] = time.Now()
	a.board.mu.Unlock()
}

// report notes how a pass ended, and logs it unless it is what the last one said.
func (k *keeper) report(err error) {
	if err != nil {
		k.waitsFor(nil)
	}
	k.mu.Lock()
	before, failing := k.view.Problem, k.failing
	k.view.Problem, k.failing = k.agent.problem(before, err, k.name), err != nil
	k.mu.Unlock()
	news := err != nil && (before == nil || before.Text != err.Error())
	switch {
	case err == nil && failing:
		k.log.Info("in order again")
	case news && isWait(err):
		k.log.Info("waiting", "for", err.Error())
	case news:
		k.log.Warn("not done yet", "err", err, "remedy", fault.Remedy(err))
	case err != nil:
		k.log.Debug("not done yet", "err", err)
	}
	if news || err == nil && failing {
		k.agent.changed()
	}
}

// joined reports whether this run obtained the certificate.
func (k *keeper) joined() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.view.Rotations != 0
}

var states = map[rotate.Reason]status.State{
	"": status.Valid, rotate.Missing: status.Missing, rotate.Unreadable: status.Unreadable, rotate.Foreign: status.Foreign, rotate.NotYetValid: status.NotYetValid,
	rotate.Expired: status.Expired, rotate.Changed: status.Due, rotate.Due: status.Due,
}

// see notes what a pass has found.
func (k *keeper) see(s *sight, reason rotate.Reason, message string) {
	state := states[reason]
	if s.found.Record.Denied != nil && !reason.Usable() {
		state = status.Denied
	}
	dead := reason.Usable() && k.isDead(s.found.Pair)
	k.mu.Lock()
	v := &k.view
	before := v.State
	if dead || reason.Usable() && k.suspect && before == status.Refused { // until it was proved again
		state = status.Refused
	}
	*v = status.Certificate{Name: k.name, State: state, Message: message, Path: s.found.PairPath, Request: v.Request, Problem: v.Problem, Rotations: v.Rotations, Failures: v.Failures, Beat: time.Now()}
	if pair := s.found.Pair; pair != nil {
		leaf := pair.Leaf
		v.Subject, v.Serial, v.Issuer = leaf.Subject.String(), leaf.SerialNumber.Text(16), leaf.Issuer.String()
		v.DNSNames, v.NotBefore, v.NotAfter = leaf.DNSNames, leaf.NotBefore, leaf.NotAfter
		if s.mode == RotationAgent {
			v.RotateAt = k.rotateAt(s)
		}
		for _, ip := range leaf.IPAddresses {
			v.IPAddresses = append(v.IPAddresses, ip.String())
		}
	}
	k.mu.Unlock()
	if before != state {
		k.log.Info("the certificate on disk", "state", string(state), "message", message, "pending", len(s.found.PendingKey) != 0)
		k.agent.changed()
	}
}

// Snapshot returns what the agent knows at this moment.
func (a *Agent) Snapshot() status.Status {
	s := a.onBoard()
	for _, k := range a.keepers {
		k.mu.Lock()
		s.Certificates = append(s.Certificates, k.view)
		k.mu.Unlock()
	}
	for _, c := range s.Certificates {
		if s.Beat.IsZero() || c.Beat.Before(s.Beat) {
			s.Beat = c.Beat
		}
		if s.Problem == nil {
			s.Problem = c.Problem
		}
	}
	if s.Problem == nil {
		s.Problem = s.CA.Problem
	}
	if s.Problem == nil {
		s.Problem = a.otherProblem()
	}
	return s
}

func (a *Agent) otherProblem() *status.Problem {
	a.board.mu.Lock()
	defer a.board.mu.Unlock()
	if a.board.config != nil {
		return a.board.config
	}
	for _, key := range slices.Sorted(maps.Keys(a.board.failed)) {
		p := a.board.failed[key]
		return &p
	}
	return nil
}

// onBoard returns the status without the certificates.
func (a *Agent) onBoard() status.Status {
	b := &a.board
	b.mu.Lock()
	defer b.mu.Unlock()
	s := status.Status{
		Version: a.config.options.Version, Running: a.daemon, Since: b.since,
		Node: b.node, Rotation: string(b.owner), RotationNote: b.ownerNote, Kubeconfig: a.config.paths.Kubeconfig,
		ConfigFile: a.config.options.ConfigFile, ConfigLoaded: b.loaded,
		Credential: b.credential, CredentialNote: b.unremoved, ClockSkew: b.skew, Watching: b.watching, CA: b.trust,
	}
	if a.daemon {
		s.PID = os.Getpid()
	}
	for _, beat := range b.beats {
		if s.Beat.IsZero() || beat.Before(s.Beat) {
			s.Beat = beat
		}
	}
	told := map[string]bool{}
	for _, e := range a.config.site.Endpoints {
		address := e.String()
		endpoint := b.endpoints[address]
		endpoint.Address = address
		s.Endpoints = append(s.Endpoints, endpoint)
		told[address] = true
	}
	for _, address := range b.order {
		if !told[address] {
			s.Endpoints = append(s.Endpoints, b.endpoints[address])
		}
	}
	s.CA.Path = a.config.paths.CAFile
	return s
}

// seeCA notes what is in the CA bundle on disk.
func (a *Agent) seeCA(ca []byte) {
	bundle, err := bootstrap.ParseBundle(ca, a.now())
	if err != nil {
		return
	}
	var certificates []status.CACertificate
	var unpinned []string
	for _, cert := range bundle.Certificates() {
		pin := bootstrap.PinOf(cert)
		pinned := slices.Contains(a.config.pins, pin)
		certificates = append(certificates, status.CACertificate{Subject: cert.Subject.String(), Pin: pin.String(), NotAfter: cert.NotAfter, Pinned: pinned})
		if !pinned {
			unpinned = append(unpinned, pin.String())
		}
	}
	note := ""
	if len(a.config.pins) != 0 && len(unpinned) != 0 {
		note = "not named by the configured CA hashes, and trusted because a server of a trusted CA vouched for it; for the day when this node must join anew, add: " + strings.Join(unpinned, ", ")
	}
	a.board.mu.Lock()
	a.board.trust.Certificates, a.board.trust.UnpinnedNote = certificates, note
	a.board.mu.Unlock()
}

// FromDisk returns what the disk tells where no agent runs.
func FromDisk(config *Config) (*status.Status, error) {
	a := New(config, discard())
	for _, k := range a.keepers {
		s, err := k.role.load()
		switch {
		case err != nil && k == a.identity:
			return nil, err
		case err != nil: // it may be the network that is missing, and with it this machine's addresses
			k.view.Problem = a.problem(nil, err, k.name)
			continue
		}
		reason, message := k.judge(s)
		k.see(s, reason, message)
		k.view.Beat = time.Time{}
		if len(s.found.PendingKey) != 0 && s.found.Record.Denied == nil {
			k.view.Request = &status.Request{Name: csr.PendingName(s.found.PendingKey), SignerName: s.template.SignerName}
		}
		if denied := s.found.Record.Denied; denied != nil {
			k.view.Problem = &status.Problem{Text: "the request was denied: " + denied.Request + ": " + denied.Reason, Remedy: "when the reason is gone: nodejoin join --force", Class: fault.Denied, Since: denied.At, Certificate: k.name}
		}
		if s.disk != nil {
			a.seeDisk(s.disk)
		}
	}
	s := a.Snapshot()
	return &s, nil
}

// seeDisk notes what is around the identity.
func (a *Agent) seeDisk(disk *rotate.Disk) {
	ca := disk.CA
	if disk.Kubeconfig != nil {
		ca = disk.Kubeconfig.CA
		if e, err := bootstrap.ParseEndpoint(disk.Kubeconfig.Server); err == nil {
			a.board.mu.Lock()
			if _, known := a.board.endpoints[e.String()]; !known {
				a.board.endpoints[e.String()] = status.Endpoint{Address: e.String()}
				a.board.order = append(a.board.order, e.String())
			}
			a.board.mu.Unlock()
		}
	}
	a.seeCA(ca)
}
