package doctor

import "golang.org/x/sys/windows"

// What a connection fails with.
const (
	errRefused   = windows.WSAECONNREFUSED
	errNoNetwork = windows.WSAENETUNREACH
	errNoHost    = windows.WSAEHOSTUNREACH
)
