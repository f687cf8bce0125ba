package bootstrap

import (
	"strings"
	"testing"

	"golang.org/x/sys/windows"
)

// TestOpened: a list that lets every user read or write is found, by whatever group it is.
func TestOpened(t *testing.T) {
	for _, test := range []struct {
		list string
		want string // is in what is said; "" for nothing
	}{
		{"D:P(A;;FA;;;SY)(A;;FA;;;BA)", ""},
		{"D:P(A;;FA;;;SY)(A;;FR;;;BU)", "S-1-5-32-545"},
		{"D:(A;;FA;;;BA)(A;;0x1;;;AU)", "S-1-5-11"},
		{"D:(A;;GA;;;WD)", "S-1-1-0"},
		{"D:(A;;FW;;;IU)", "S-1-5-4"},
		{"D:(A;;GR;;;BG)", "S-1-5-32-546"},
		{"D:(A;;RC;;;BU)", ""},       // may look at the list alone
		{"D:(A;OICIIO;FA;;;AU)", ""}, // for what is made below
		{"D:(D;;FA;;;BU)", ""},
	} {
		descriptor, err := windows.SecurityDescriptorFromString(test.list)
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
			continue
		}
		list, _, err := descriptor.DACL()
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
			continue
		}
		want := test.want
		if strings.HasPrefix(want, "S-") {
			sid, err := windows.StringToSid(want)
			if err != nil {
				t.Fatal(err)
			}
			want = nameOf(sid)
		}
		if got, err := opened(list); err != nil || (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q: %v", test.list, got, want, err)
		}
	}
	if got, err := opened(nil); err != nil || got == "" {
		t.Errorf("without a list: %q, %v", got, err)
	}
}
