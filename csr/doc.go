// Package csr takes a certificate signing request through its life: key, [Template], PKCS#10 request, the API object
// from submission to a terminal condition ([Client.Obtain]), and the gate on what comes back ([Gate]).
//
// # What it promises
//
// The name of the object follows from the key and the template, so a crash, a second run or a lost reply finds the
// object that is already there instead of making another; what is found is compared with what was asked for. One
// object is asked for and watched at a time. What is issued is never believed: it passes Gate or is refused.
//
// # How it fails
//
// With an error of a class (package fault) when waiting cannot help: the request was denied, the object is not ours,
// the credential may not ask. With [ErrUnauthorized] when the API server does not know the credential, [ErrGone] when
// the object went away, and any other error when the API server could not be asked: the caller repeats the attempt
// with the same key.
package csr
