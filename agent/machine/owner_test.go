package machine

import (
	"os/user"
	"strconv"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestResolveOwner(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	mine, err := user.LookupGroupId(me.Gid)
	expect.Able(t, "a group with a name", err)
	uid, _ := strconv.Atoi(me.Uid)
	gid, _ := strconv.Atoi(me.Gid)
	for _, test := range []struct {
		name, user, group string
		uid, gid          int
		mistake           string
	}{
		{"nothing", "", "", -1, -1, ""},
		{"names", me.Username, mine.Name, uid, gid, ""},
		{"numbers, of nobody that is known", "54321", "54322", 54321, 54322, ""},
		{"only a user", me.Username, "", uid, -1, ""},
		{"only a group", "", "0", -1, 0, ""},
		{"the largest number", "", "4294967294", -1, 4294967294, ""},
		{"a number that means something else", "4294967295", "", 0, 0, `"4294967295" is not the number of a user`},
		{"a number that is too large", "", "4294967296", 0, 0, `"4294967296" is not the number of a group`},
		{"a user that is not there", "no-such-user", "", 0, 0, `this machine has no user "no-such-user"`},
		{"a group that is not there", "", "no-such-group", 0, 0, `this machine has no group "no-such-group"`},
		{"a negative number is a name", "-1", "", 0, 0, `this machine has no user "-1"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			uid, gid, err := ResolveOwner(test.user, test.group)
			if test.mistake == "" {
				if err != nil || uid != test.uid || gid != test.gid {
					t.Errorf("%d, %d, %v instead of %d, %d", uid, gid, err, test.uid, test.gid)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.mistake) || fault.ClassOf(err) != fault.Usage || fault.Remedy(err) == "" || uid != -1 || gid != -1 {
				t.Errorf("%d, %d, %v (remedy: %q)", uid, gid, err, fault.Remedy(err))
			}
		})
	}
}
