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
	"strings"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of its own

	"github.com/contraband-dev/contraband/internal/sensorproc"
)

// collectAt makes the collector run when the heap has grown by so many percent:
// the sensor allocates little, and every node pays for what it keeps. GOGC
// overrides it.
const collectAt = 30

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := sensorproc.Command()
	cmd.Use, cmd.Example = "contraband-sensor", strings.ReplaceAll(cmd.Example, "contraband sensor", "contraband-sensor")
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "contraband-sensor:", err)
		stop()
		os.Exit(1)
	}
}
