// Package csr takes a certificate signing request through its life: key, [Template], PKCS#10 request, the API object
// from submission to a terminal condition ([Client.Obtain]), and the gate on what comes back ([Gate]). The kubelet's
// client certificate is one template of many: any signer, subject, names and usages that the API knows can be asked for.
//
// # What it promises
//
// The name of the object follows from the key and the template, so a crash, a second run or a lost reply finds the
// object that is already there instead of making another; what is found is compared with what was asked for. Requests
// for a kubelet's client certificate are named node-csr-DIGEST, as the kubelet names its own, all others
// nodejoin-DIGEST; no name changes from one version to the next. One object is asked for and watched at a time. What
// is issued is never believed: it passes Gate or is refused. A caller that waits hears at least once a minute that the
// wait goes on.
//
// The lifetime that an object asks for is not held against the template: the cluster decides it in any case.
//
// # How it fails
//
// With an error of a class (package fault) when waiting cannot help: the request was denied, the object is not ours,
// the credential may not ask. With [ErrUnauthorized] when the API server does not know the credential, [ErrGone] when
// the object went away, and any other error when the API server could not be asked: the caller repeats the attempt
// with the same key. An error that ends a request has an [EndedError] in its chain, which says why in the words of
// whoever ended it.
package csr
