package bootstrap

import (
	"fmt"
	"io/fs"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// readOrWrite are the rights with which a file is no secret any more.
const readOrWrite = windows.FILE_READ_DATA | windows.FILE_WRITE_DATA | windows.FILE_APPEND_DATA | windows.GENERIC_READ | windows.GENERIC_WRITE | windows.GENERIC_ALL

// everybody are the groups that every user of a machine is in, or can be.
var everybody = []windows.WELL_KNOWN_SID_TYPE{windows.WinWorldSid, windows.WinAuthenticatedUserSid, windows.WinBuiltinUsersSid, windows.WinInteractiveSid, windows.WinBuiltinGuestsSid}

// checkSecrecy refuses a file with a secret that every user of this machine can read or write, by its access control list: there
// are no modes here.
func checkSecrecy(path string, _ fs.FileMode) error {
	descriptor, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("cannot find out who may read %s: %w", path, err)
	}
	list, _, err := descriptor.DACL()
	if err != nil {
		return fmt.Errorf("cannot find out who may read %s: %w", path, err)
	}
	who, err := opened(list)
	if err != nil {
		return fmt.Errorf("cannot find out who may read %s: %w", path, err)
	}
	if who != "" {
		return fault.New(fault.Usage, "icacls "+path+" /inheritance:r /grant:r *S-1-5-18:F *S-1-5-32-544:F, and consider what is in it known: make another",
			"the file %s holds a secret and is open to every user of this machine (%s)", path, who)
	}
	return nil
}

// opened returns the group of all users that an access control list lets in, or "". An entry that refuses somebody is not
// looked at: whoever is let in by another is taken to get in.
func opened(list *windows.ACL) (who string, err error) {
	if list == nil {
		return "it has no access control list", nil
	}
	for i := range uint32(list.AceCount) {
		var entry *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(list, i, &entry); err != nil {
			return "", err
		}
		if entry.Header.AceType != windows.ACCESS_ALLOWED_ACE_TYPE || entry.Header.AceFlags&windows.INHERIT_ONLY_ACE != 0 || entry.Mask&readOrWrite == 0 {
			continue
		}
		sid := (*windows.SID)(unsafe.Pointer(&entry.SidStart)) //nolint:gosec // the entry goes on with it
		if slices.ContainsFunc(everybody, sid.IsWellKnown) {
			return "its access control list lets in " + nameOf(sid), nil
		}
	}
	return "", nil
}

func nameOf(sid *windows.SID) string {
	name, domain, _, err := sid.LookupAccount("")
	if err != nil {
		return sid.String()
	}
	if domain == "" {
		return name
	}
	return domain + `\` + name
}
