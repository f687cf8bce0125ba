package agent

import (
	"fmt"
	"os"
	"testing"
)

// TestMain takes away what the machine that the tests run on might say to an agent.
func TestMain(m *testing.M) {
	for _, name := range []string{"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC"} {
		if err := os.Unsetenv(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
