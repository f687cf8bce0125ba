//go:build !linux

package doctor

import "errors"

// tryWatching cannot be done here.
func tryWatching() (limit string, err error) { return "", errors.ErrUnsupported }
