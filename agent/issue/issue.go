package issue

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
)

// pause is between two tries where the API server could not be asked while a request waits.
const pause = 2 * time.Second

// Issuer has requests signed.
type Issuer struct {
	Client *csr.Client
	Roots  []*x509.Certificate // the cluster's CA; see csr.Gate
	// Approval, if not nil, is given to every request with the client's own credential. Without it somebody else has to
	// approve.
	Approval *csr.Approval
	// Report is told what a request waits for, as csr.Client.Obtain tells it; nil for nobody.
	Report func(csr.Progress)
	// Kubeconfig is where the credential is from, for a person.
	Kubeconfig string
}

// errTimeout is the cause of a context whose time for an approval is over.
var errTimeout = errors.New("nobody approved it in time")

// Issue submits a request, or finds the one that is there, and waits until it is signed, for at most timeout.
func (i *Issuer) Issue(ctx context.Context, r *csr.Request, timeout time.Duration) (*csr.Issued, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	var last csr.Progress
	chain, err := i.obtain(ctx, r, &last)
	if err != nil {
		return nil, i.explain(ctx, r, last, err)
	}
	issued, err := csr.Gate(chain, r.Template, r.Public(), i.Roots, time.Now())
	switch {
	case errors.Is(err, csr.ErrExpired):
		return nil, endedError{fault.New(fault.Denied, "run this again: it makes a new request", "%w", err)}
	case err != nil:
		return nil, fault.New(fault.Denied, "look at the cluster's signer: kubectl describe csr "+r.Name+"; nothing was written", "%w", err)
	}
	return issued, nil
}

// obtain follows the request to its end. An API server that goes away while it waits is asked again.
func (i *Issuer) obtain(ctx context.Context, r *csr.Request, last *csr.Progress) ([]byte, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	approved := i.Approval == nil
	report := func(p csr.Progress) {
		*last = p
		if !approved && !p.Approved {
			if err := i.Client.Approve(ctx, r, *i.Approval); err != nil {
				giveUp(err)
				return
			}
			approved = true
		}
		if i.Report != nil {
			i.Report(p)
		}
	}
	for {
		chain, err := i.Client.Obtain(ctx, r, report)
		switch {
		case err == nil:
			return chain, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case last.Name == "" || fault.IsFinal(err) || Ended(err) || errors.Is(err, csr.ErrUnauthorized):
			return nil, err
		}
		if err := rest(ctx); err != nil {
			return nil, err
		}
	}
}

// rest waits for a pause.
func rest(ctx context.Context) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// endedError is the error of a request that has ended in a way that package csr does not know of.
type endedError struct{ error }

func (e endedError) Unwrap() error { return e.error }

// Ended reports whether an error says that a request has ended: its key is of no use any more.
func Ended(err error) bool {
	if _, ended := errors.AsType[*csr.EndedError](err); ended {
		return true
	}
	_, ended := errors.AsType[endedError](err)
	return ended
}

// explain gives an error the remedy of an administrator. Package csr speaks to a node.
func (i *Issuer) explain(ctx context.Context, r *csr.Request, last csr.Progress, err error) error {
	var class fault.Class
	if fault.IsFinal(err) {
		class = fault.ClassOf(err)
	}
	switch {
	case errors.Is(err, errTimeout) && last.Approved:
		return fault.New(fault.Unapproved, "look at the kube-controller-manager's log (its csrsigning controller), and run this again",
			"the request %s is approved, and the cluster's signer has not signed it", r.Name)
	case errors.Is(err, errTimeout) && last.Name != "":
		return fault.New(fault.Unapproved, "run this again (the request is kept) after: kubectl certificate approve "+r.Name,
			"nobody approved the request %s (by %s)", r.Name, last.Username)
	case errors.Is(err, errTimeout):
		return errors.New("the API server did not answer in time")
	case errors.Is(ctx.Err(), context.Canceled):
		return fault.New(fault.Unexpected, "run it again: it goes on where it stopped", "interrupted")
	case errors.Is(err, csr.ErrUnauthorized):
		return fault.New(fault.Refused, "log in anew, or give another kubeconfig with --kubeconfig",
			"the API server does not know the user of the kubeconfig %s (401)", i.Kubeconfig)
	case errors.Is(err, csr.ErrDenied):
		return fault.New(fault.Denied, "when the reason is gone, run this again: it makes a new key and a new request", "%w", err)
	case errors.Is(err, csr.ErrGone):
		return fault.New(fault.Denied, "run this again: it makes a new request", "%w", err)
	case class == fault.Refused && last.Name == "":
		return fault.New(fault.Refused, "give the kubeconfig of a user who may create, get and watch certificatesigningrequests (--kubeconfig); to check: kubectl auth can-i create certificatesigningrequests",
			"%w", err)
	}
	return err
}
