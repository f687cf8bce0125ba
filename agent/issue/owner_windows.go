package issue

import (
	"io/fs"
	"os"
)

// ownerOf returns this user's numbers, which there are none of: the file goes to whoever replaces it.
func ownerOf(fs.FileInfo) (uid, gid int) { return os.Geteuid(), os.Getegid() }
