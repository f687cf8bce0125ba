package csr

import "strings"

// PendingName returns the name of the API object that is in what [Request.MarshalPending] has kept; "" if there is none.
func PendingName(data []byte) string {
	name, _, _ := strings.Cut(string(data), "\n")
	if !strings.HasPrefix(name, prefixKubelet) && !strings.HasPrefix(name, prefixOther) {
		return ""
	}
	return name
}
