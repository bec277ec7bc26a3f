// Command contraband-sensor is the DaemonSet's binary: the sensor and nothing
// else. `contraband sensor` is the same.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/contraband-dev/contraband/internal/agent"
)

// memoryLimit makes the collector work harder before the node has to: Go would
// else let the heap double between collections. GOMEMLIMIT overrides it.
const memoryLimit = 30 << 20

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := agent.Command()
	cmd.Use = "contraband-sensor"
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "contraband-sensor:", err)
		stop()
		os.Exit(1)
	}
}
