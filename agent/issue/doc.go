// Package issue has a cluster sign client certificates for somebody else than the machine that it runs on: for people, and
// for machines that are to join as one node only. It is an administrator's package: who asks, and who approves where
// that is wanted, is the user of a kubeconfig.
//
// # What it promises
//
// What comes back has passed [csr.Gate], or nothing is written. What is approved is the request that was made here, or
// none. A private key is in no error and in no output but the file that was asked for; files are created with mode 0600
// and never in the place of another. [Replace] alone puts one file in the place of its former self, whole or not at all.
//
// A request that waits for its approval outlives the program: its key is kept in a [Pending] file, and the next run
// finds the same request.
//
// # How it fails
//
// With an error of a class (package fault): a name that nobody may be given is [fault.Usage], a credential that may not
// ask or approve is [fault.Refused], a request that was denied is [fault.Denied], one that nobody approved in time is
// [fault.Unapproved], and a file that is in the way is [fault.Files].
package issue
