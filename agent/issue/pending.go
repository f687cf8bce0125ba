package issue

import (
	"crypto"
	"errors"
	"os"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
)

// PendingSuffix makes the path of a [Pending] file from that of the file that is to be written in the end.
const PendingSuffix = ".pending"

// Pending is the file with the key of a request that waits.
type Pending struct{ Path string }

// Request returns the request that the file keeps, or makes a new one and keeps that. One that asks for something else
// is in the way: what was begun would be lost with it.
func (p Pending) Request(t csr.Template, algorithm csr.Algorithm) (*csr.Request, error) {
	data, err := ReadSmall(p.Path)
	switch {
	case err == nil:
		return p.resume(data, t, algorithm)
	case !isMissing(err):
		return nil, fault.New(fault.Files, "run it as the user who began this, or rm "+p.Path, "the request that waits cannot be read: %w", err)
	}
	key, err := csr.GenerateKey(algorithm)
	if err != nil {
		return nil, err
	}
	return p.begin(t, key)
}

func (p Pending) resume(data []byte, t csr.Template, algorithm csr.Algorithm) (*csr.Request, error) {
	r, err := csr.ResumeRequest(data, t, algorithm)
	switch {
	case errors.Is(err, csr.ErrOtherWish):
		return nil, fault.New(fault.Files, "repeat the flags of the run that made it, or give it up: kubectl delete csr "+csr.PendingName(data)+" && rm "+p.Path,
			"%s keeps the key of another request: %w", p.Path, err)
	case err != nil: // whose text may have what it has found instead of a key
		return nil, fault.New(fault.Files, "rm "+p.Path+", and run this again", "%s is damaged: there is no key in it", p.Path)
	}
	return r, nil
}

// begin keeps a request before it is submitted: what is signed is of no use without its key.
func (p Pending) begin(t csr.Template, key crypto.Signer) (*csr.Request, error) {
	r, err := csr.NewRequest(t, key)
	if err != nil {
		return nil, err
	}
	data, err := r.MarshalPending()
	if err != nil {
		return nil, err
	}
	return r, Create(p.Path, data)
}

// Done removes the file. That it is not there is fine.
func (p Pending) Done() error {
	if err := os.Remove(p.Path); err != nil && !isMissing(err) {
		return filesFault(err)
	}
	return nil
}
