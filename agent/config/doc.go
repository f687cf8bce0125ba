// Package config is the configuration file of nodejoin: what may stand in it ([File]), and how it is read and checked.
//
// REFERENCE.md, which operators read, is generated from the comments of the types here.
//
// # What it promises
//
// The file is decoded strictly: an unknown or repeated key, a wrong type, an anchor or alias, a second document, and
// whatever else could mean something other than what its author meant, is refused. What each field may say is judged
// by the code that will use it, so that a file which is accepted here is not refused later for its form.
//
// No secret belongs into the file, and none that got into it is repeated: not in an error and not by [File.Marshal].
//
// # How it fails
//
// With an error of the class [fault.Usage]. Where the content is wrong it holds [Mistakes], which are all that were
// found, each with its line and the path of its field. A file that is not there gives an error that is
// [io/fs.ErrNotExist].
package config

//go:generate go run ./gen
