package cli

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func devicesExplain(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "explain ID", Short: "say what a device is to run, where that is, and what it waits for",
		Args: takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				e, err := client.Get[v1.Explanation](cmd.Context(), c, client.Path("v1", "devices", id, "explain"), nil)
				if err != nil {
					return err
				}
				return a.print(e, explainSheet(&e, c.Now()).Write)
			})
		},
	}
}

// explainSheet lays an explanation out: facts of the device, and under each slot its own.
func explainSheet(e *v1.Explanation, now time.Time) *output.Sheet {
	s := &output.Sheet{}
	s.Fact("ID", e.Device)
	slot := ""
	for i := range e.Facts {
		f := &e.Facts[i]
		text := f.Text
		var when []string
		if f.Since != nil {
			when = append(when, "since "+output.Both(now, f.Since))
		}
		if f.Until != nil {
			when = append(when, "until "+output.Both(now, f.Until))
		}
		if len(when) > 0 {
			text += " [" + strings.Join(when, ", ") + "]"
		}
		if f.Slot == "" {
			s.Fact(topic(f.Topic), text)
			continue
		}
		if f.Slot != slot {
			slot = f.Slot
			s.Heading("Slot "+slot, "")
		}
		s.Sub(topic(f.Topic), text)
	}
	return s
}

// topic is a topic as a label.
func topic(word string) string {
	if word == "" {
		return word
	}
	return strings.ToUpper(word[:1]) + word[1:]
}
