//go:build race

package agent

func init() { slow = 10 }
