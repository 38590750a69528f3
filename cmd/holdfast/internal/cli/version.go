package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// program is what is known about this binary.
type program struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, with + when it was changed
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func ownVersion() program {
	b := program{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Revision = s.Value + b.Revision
		case s.Key == "vcs.modified" && s.Value == "true":
			b.Revision += "+"
		}
	}
	return b
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "show the version of this tool", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			b := ownVersion()
			return a.print(b, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "holdfast %s (%s, %s)\n", b.Version, b.Go, b.Platform)
				return err
			})
		},
	}
}
