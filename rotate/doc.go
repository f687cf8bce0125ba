// Package rotate keeps a node's identity on disk: the [KeyPair], the CA bundle, the kubeconfig that names both by path,
// the pending key of a request that is under way, and what is remembered between runs. It decides whether an identity
// must be replaced ([WhyReplace]); it does not obtain one.
//
// # What it promises
//
// Every file is durable when a method returns: a temporary file in the same directory, fsync, rename over, fsync of the
// directory. "kubelet-client-current.pem" is a symbolic link that is swapped by rename and never absent once it was
// there, and no file that it pointed to is ever written to again: at every instant a loadable, matching key and
// certificate is found behind it, whatever dies.
//
// Directories must belong to this user or root and be writable by nobody else, and the link must stay inside its
// directory: a store that others can change is refused and not used.
//
// On Windows nothing has a mode: what is made here has an access control list of its own instead (package pending), only the
// owner of a directory is looked at, and where no link can be made a copy stands in its place.
//
// # How it fails
//
// With the class [fault.Files] when a person must look at the files, [fault.Held] when another agent holds the lock,
// and otherwise with the file system's own error, which may pass (no space left).
package rotate
