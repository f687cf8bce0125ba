package machine

import (
	"errors"
	"fmt"
	"math"
	"os/user"
	"strconv"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// ResolveOwner returns the numbers of a user and a group of this machine, which are given by name or by number; "" is -1,
// as in [os.Chown]. Where the machine knows a number is of no interest. A name that it does not know is a mistake of the
// operator's; users that only a directory service knows are not seen by a program without cgo.
func ResolveOwner(userName, group string) (uid, gid int, err error) {
	uid, err = resolve("user", userName, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return -1, -1, err
	}
	gid, err = resolve("group", group, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	if err != nil {
		return -1, -1, err
	}
	return uid, gid, nil
}

// resolve returns the number of a user or group; kind is which of the two.
func resolve(kind, name string, lookUp func(string) (string, error)) (int, error) {
	if name == "" {
		return -1, nil
	}
	id, err := strconv.ParseUint(name, 10, 32)
	if err != nil && errors.Is(err, strconv.ErrSyntax) {
		var text string
		if text, err = lookUp(name); err != nil {
			return -1, unknownOwner(kind, name, err)
		}
		id, err = strconv.ParseUint(text, 10, 32)
	}
	if err != nil || id >= math.MaxInt32 && (id == math.MaxUint32 || strconv.IntSize == 32) { // chown(2) takes 2³²-1 for "leave it"
		return -1, fault.New(fault.Usage, "give the name or the number of a "+kind+" of this machine", "%q is not the number of a %s", name, kind)
	}
	return int(id), nil
}

func unknownOwner(kind, name string, err error) error {
	_, noUser := errors.AsType[user.UnknownUserError](err)
	_, noGroup := errors.AsType[user.UnknownGroupError](err)
	if !noUser && !noGroup {
		return fmt.Errorf("cannot look for the %s %q: %w", kind, name, err)
	}
	database := map[string]string{"user": "passwd", "group": "group"}[kind]
	return fault.New(fault.Usage, "see which there are: getent "+database+"; of one that this machine does not keep itself, give the number", "this machine has no %s %q", kind, name)
}
