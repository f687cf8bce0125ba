// Package pending makes files that appear under their names whole or not at all, on each operating system.
//
// # What it promises
//
// A file is made under a temporary name beside its own, "." + name + digits, and open to nobody whom its mode leaves out before
// anything is written to it. When it takes its place, its content is durable, and at every instant there is the old file or
// the new under the name. [SyncDir] then makes the name durable.
//
// Windows has no modes: there a file or directory gets an access control list of its own in their place, which inherits
// nothing. It lets in the system, the administrators and whoever made it, and other users, to read, where the mode lets others read.
//
// # How it fails
//
// With the error of the file system, without a class.
package pending
