package status

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Status is what is known at one moment. It is a value: whoever makes one does not change it, or what its slices and
// pointers lead to, after it was handed out.
type Status struct { //nolint:recvcheck // a value that is no pointer must marshal, too
	Version string    `json:"version,omitempty"` // of the program
	Running bool      `json:"running"`           // an agent runs and tells this; else it was read from disk
	PID     int       `json:"pid,omitempty"`     // of the agent
	Since   time.Time `json:"since,omitzero"`    // the agent's start

	Node         string    `json:"node"`                   // the node's name
	Rotation     string    `json:"rotation,omitempty"`     // who rotates the node's certificate: "agent" or "kubelet"
	RotationNote string    `json:"rotationNote,omitempty"` // why that is not what was configured
	Kubeconfig   string    `json:"kubeconfig,omitempty"`   // path
	ConfigFile   string    `json:"configFile,omitempty"`   // path; "" if there is none
	ConfigLoaded time.Time `json:"configLoaded,omitzero"`  // when it was last read and accepted

	Certificates []Certificate `json:"certificates"`         // the node's client certificate first
	Credential   string        `json:"credential,omitempty"` // used last, as a person knows it: "the bootstrap token abcdef"
	// CredentialNote says what the agent should have done with a credential, and cannot: a person has to.
	CredentialNote string     `json:"credentialNote,omitempty"`
	Endpoints      []Endpoint `json:"endpoints"` // in the order in which they are tried
	CA             CA         `json:"ca"`

	// ClockSkew is this machine's clock minus the API server's; 0 if it is not known. In JSON it is the number
	// clockSkewSeconds, with milliseconds behind the point.
	ClockSkew time.Duration `json:"-"`

	Problem  *Problem  `json:"problem,omitempty"` // the last one that is not over
	Watching bool      `json:"watching"`          // file events work; without, files are looked at once a minute
	Beat     time.Time `json:"beat,omitzero"`     // when the loop last made progress: of all that it keeps, the longest ago
}

// State says what there is of a certificate.
type State string

// The states. In the first two the certificate can be used.
const (
	Valid       State = "valid"
	Due         State = "due"           // it can be used, and is to be replaced now
	Missing     State = "missing"       // there is none
	Expired     State = "expired"       // by this machine's clock
	NotYetValid State = "not-yet-valid" // by this machine's clock
	Unreadable  State = "unreadable"    // torn, empty, or the key is of another
	Foreign     State = "foreign"       // of another name or of another cluster
	Denied      State = "denied"        // there is none that can be used, and the request for one was denied
	Refused     State = "refused"       // the API server does not accept it
)

// Certificate is one certificate that is kept.
type Certificate struct {
	Name    string `json:"name"` // in the configuration: "kubelet-client" for the node's
	State   State  `json:"state"`
	Message string `json:"message,omitempty"` // the state in words, where there is more to say
	Path    string `json:"path,omitempty"`

	Subject     string    `json:"subject,omitempty"`
	Serial      string    `json:"serialNumber,omitempty"` // hexadecimal
	Issuer      string    `json:"issuer,omitempty"`
	DNSNames    []string  `json:"dnsNames,omitempty"`
	IPAddresses []string  `json:"ipAddresses,omitempty"`
	NotBefore   time.Time `json:"notBefore,omitzero"`
	NotAfter    time.Time `json:"notAfter,omitzero"`
	RotateAt    time.Time `json:"rotateAt,omitzero"` // unknown where the kubelet rotates it

	Request   *Request  `json:"request,omitempty"` // under way
	Problem   *Problem  `json:"problem,omitempty"` // the last one that is not over
	Rotations uint64    `json:"rotations"`         // certificates obtained since the agent started
	Failures  uint64    `json:"failures"`          // attempts that failed since then
	Beat      time.Time `json:"beat,omitzero"`     // when its keeper last made progress
}

// Request is a CertificateSigningRequest that is waited for. Where no agent runs, the disk tells its name and its signer
// alone: the times are not known, and neither is whether it was approved.
type Request struct {
	Name       string    `json:"name"`
	SignerName string    `json:"signerName,omitempty"`
	Username   string    `json:"username,omitempty"` // who submitted it, as the API server knows the user
	Created    time.Time `json:"created,omitzero"`   // by the API server's clock
	Since      time.Time `json:"since,omitzero"`     // since when it is waited for as it is now, by this machine's clock
	Approved   bool      `json:"approved"`           // an approver has acted; the signer has not
}

// Problem is a failure that is not over.
type Problem struct {
	Text        string      `json:"text"`             // the cause, on one line
	Remedy      string      `json:"remedy,omitempty"` // what to do about it, on one line, with the command to run
	Class       fault.Class `json:"class,omitzero"`   // as the exit status; 0 for one without, which may pass by itself
	Passes      bool        `json:"passes,omitempty"` // it may pass by itself, and is waited for
	Since       time.Time   `json:"since,omitzero"`
	Certificate string      `json:"certificate,omitempty"` // whose; "" if of none in particular
}

// IsFinal reports whether the problem does not pass by itself: a person must act first.
func (p *Problem) IsFinal() bool { return p.Class != 0 && !p.Passes }

// Endpoint is one API server.
type Endpoint struct {
	Address   string    `json:"address"` // HOST:PORT
	Alive     bool      `json:"alive"`
	InUse     bool      `json:"inUse"`
	Error     string    `json:"error,omitempty"`    // why it is not alive
	CheckedAt time.Time `json:"checkedAt,omitzero"` // unknown if it was not tried yet
}

// CA is the bundle that the cluster is verified with.
type CA struct {
	Path         string          `json:"path,omitempty"`
	Certificates []CACertificate `json:"certificates"`
	Source       string          `json:"source,omitempty"`       // what it was last compared with
	CheckedAt    time.Time       `json:"checkedAt,omitzero"`     // and when
	Problem      *Problem        `json:"problem,omitempty"`      // why it does not follow the cluster's
	UnpinnedNote string          `json:"unpinnedNote,omitempty"` // what to know where pins are configured and a certificate has none
}

// CACertificate is one certificate of the bundle.
type CACertificate struct {
	Subject  string    `json:"subject"`
	Pin      string    `json:"pin,omitempty"` // sha256:<hex> of its public key
	NotAfter time.Time `json:"notAfter,omitzero"`
	Pinned   bool      `json:"pinned"` // the configuration names the pin
}

// document is the shape of the JSON.
type document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	fields
	ClockSkew float64 `json:"clockSkewSeconds,omitzero"`
}

type fields Status

// MarshalJSON returns the document that the package describes.
func (s Status) MarshalJSON() ([]byte, error) {
	return json.Marshal(document{APIVersion, Kind, fields(normal(s)), s.ClockSkew.Round(time.Millisecond).Seconds()})
}

// UnmarshalJSON reads the document. Fields that it does not know are passed over: they are of a newer agent.
func (s *Status) UnmarshalJSON(data []byte) error {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return err
	}
	if d.APIVersion != APIVersion || d.Kind != Kind {
		return fmt.Errorf("the document is %q %q instead of %q %q", d.APIVersion, d.Kind, APIVersion, Kind)
	}
	*s = Status(d.fields)
	s.ClockSkew = time.Duration(d.ClockSkew * float64(time.Second)).Round(time.Millisecond)
	return nil
}

// normal returns a copy with times as the format has them, and with empty lists instead of none.
func normal(s Status) Status {
	inSeconds(&s.Since, &s.ConfigLoaded, &s.Beat)
	s.Problem = normalProblem(s.Problem)
	s.Certificates = append([]Certificate{}, s.Certificates...)
	for i := range s.Certificates {
		c := &s.Certificates[i]
		inSeconds(&c.NotBefore, &c.NotAfter, &c.RotateAt, &c.Beat)
		c.Problem = normalProblem(c.Problem)
		if c.Request != nil {
			request := *c.Request
			inSeconds(&request.Created, &request.Since)
			c.Request = &request
		}
	}
	s.Endpoints = append([]Endpoint{}, s.Endpoints...)
	for i := range s.Endpoints {
		inSeconds(&s.Endpoints[i].CheckedAt)
	}
	inSeconds(&s.CA.CheckedAt)
	s.CA.Problem = normalProblem(s.CA.Problem)
	s.CA.Certificates = append([]CACertificate{}, s.CA.Certificates...)
	for i := range s.CA.Certificates {
		inSeconds(&s.CA.Certificates[i].NotAfter)
	}
	return s
}

func normalProblem(p *Problem) *Problem {
	if p == nil {
		return nil
	}
	normal := *p
	inSeconds(&normal.Since)
	return &normal
}

func inSeconds(times ...*time.Time) {
	for _, t := range times {
		*t = t.UTC().Truncate(time.Second)
	}
}

// known says whether the request was seen in the cluster.
func (r *Request) known() bool {
	return r.Approved || !r.Created.IsZero() || !r.Since.IsZero()
}

// Usable reports whether a certificate can authenticate, by its dates as well as by its state, which may be a minute old.
func (c *Certificate) Usable(now time.Time) bool {
	return slices.Contains([]State{Valid, Due}, c.State) && !c.expired(now) && !now.Before(c.NotBefore)
}

func (c *Certificate) expired(now time.Time) bool {
	return !c.NotAfter.IsZero() && !now.Before(c.NotAfter)
}
