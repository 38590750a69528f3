package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// page is docs/performance.md. What it says about the method must be changed together with the method.
var page = template.Must(template.New("performance").Parse(`# Performance

How much Holdfast adds to what its mechanisms cost by themselves. Each figure stands next to a floor: a program in
` + "`internal/floor`" + ` that does the least that the task needs (one echo on a long-lived QUIC stream, an idle connection, a signature
check with a batched commit on one node or three, a log that only writes and syncs, a process that holds one connection), measured in the same run on the same machine. The absolute
numbers are this machine's; the ratios are what we hold ourselves to.

This page is written by ` + "`{{.Command}}`" + `; do not edit it. Last run: {{.Date}}, on {{.Machine}}.

## Targets

| target | limit | floor | Holdfast | ratio | met | |
|---|---|---|---|---|---|---|
{{range .Verdicts}}| {{.Name}} | {{.Target}} | {{.Floor}} | {{.Own}} | {{.Ratio}} | {{.Met}} | {{.Note}} |
{{end}}
Targets are reported and not enforced: the machine may be shared, and a busy neighbour moves every number.

## Method

- Regime of the gateway: {{.Devices}} devices with connections of their own, each in a closed loop: the next exchange begins when the one before is
  answered, which saturates whatever is slowest.
- Gateway and core run in processes of their own, hosted by the bench: the same packages as in the shipped programs, with
  commands to collect garbage and to take profiles. The agent is the shipped program. All traffic passes real sockets on
  loopback; the core's log and the floor's lie on the same disk.
- What is compared alternates in short slices. A ratio is formed within each pair, and the median is taken over the half of the
  pairs during which other processes took the least of the machine.
- **Heartbeats**: CPU time of the gateway's process over heartbeats answered. Gateway and driver are pinned to one core each,
  as the floor's server and driver are; the core is not pinned, and all but idle.
- **Gateway memory**: growth of the resident set, over the same gateway in a fleet without devices, per attached device; after a
  garbage collection, as for the floor. The figure before the collection is listed too.
- **Hostile connections**: {{.Hostiles}} at a time, with genuine certificates, against a fresh gateway: *silent* completes the handshake
  and never attaches; *fill* attaches, sends the largest frame without its end and fills every stream and window; *crumbs* leaves a
  gap that never closes and sends the rest behind it in packets of 128 bytes, which the receiver has to keep; *trickle* does so byte by byte; *deaf* sends the largest statements without reading an answer. The worst counts.
- **Spool**: appends of {{.SpoolData}} B by group commit, twice as many under way as a batch shall have: one half is written while the other gathers. In turns with
  it, a raw log that does nothing but write and fdatasync makes batches of the size that the spool's had.
- **Custody**: the time from a verified statement to its custody, {{.CustodyLanes}} under way at once; against single records of the same size, written and
  synced one after the other, in the same process. Verification is not in it.
- **Download**: one device in a process of its own fetches incompressible chunks of {{.ChunkKiB}} KiB out of the gateway's cache, with as many questions under way as
  may be, and holds each against its digest. In turns with it, a raw QUIC stream carries as many bytes from another process's memory to the same
  reader, who hashes them. Memory is that of the gateway while {{.Downloaders}} devices asked for all they may, in the largest chunks, and do not read.
- **WAN**: {{.Calm}} devices that beat each {{.CalmEvery}}, as real ones do, for {{.CalmWindow}}. What goes through the gateway's two sockets is counted, with the headers of UDP and
  IPv4, in both directions: on the uplink, and between gateway and devices, which is what would go over the WAN without a gateway.
- **Drain**: {{.Buffered}} signed statements of {{.Drainers}} devices lie in the spool of a gateway when it starts, as after an outage, and go to the
  core, which verifies and commits them, while {{.Calm}} devices are attached and beat each {{.DrainEvery}}. Their heartbeats are timed during the drain, and for
  {{.DrainRest}} afterwards. The floor checks each signature once and commits batches of {{.Batch}}.
- **Registrations**: statements signed before the clock starts, each stating a changed fact, one under way per device, measured from the first
  until the core has answered the gateway for the last. Nothing is pinned. The driver needs CPU on the same cores, which the floor has no counterpart for, so two ratios
  are given: of the throughputs as measured, and of the CPU times (the floor's against gateway and core together). The floor commits
  batches of {{.Batch}}; what the core reached is listed as registration.batch. In the end every device's newest receipt is
  opened: it must cover exactly what that device was answered.
- **Three nodes**: a core of three nodes, each a process, with its gateway's uplink at a follower. In each round four things are
  measured one after the other: registrations *through a gateway*, as above; *the core alone*, where a driver with a gateway's
  identity speaks the uplink's protocol itself, {{.Lanes}} messages of {{.ClusterBatch}} statements of as many devices under way, with its
  session at a follower and then at the leader; and the floor, three nodes in one process that commit batches of {{.ClusterBatch}} over TCP on
  loopback and check each signature once. The target is held against the sender at the follower, because with three nodes two
  gateways of three are at one. CPU times are those of all nodes together. The floor encrypts nothing between its nodes, applies
  nothing, and signs no receipts. All receipts are looked at in the end.
- **API write**: PUT of the heartbeat interval of a site without devices, each a change, over HTTPS on loopback by one client,
  the next request when the answer is there; {{.Askers}} operators in turn, because each may ask 200 times a second. The floor is the
  median time of one commit of an entry of the same size on three bare nodes, one at a time.
- **Heap and list**: {{.Filled}} devices in {{.FillSites}} sites, each enrolled, registered and reported online by commands that went through the log of a node
  in a process of its own. The *heap* is read there, after a collection, with the large entries passed out of what the log keeps in
  memory: just after, and when a token's end lies so far back that its enrollments cannot be repeated; then that of the registry
  alone once more as read from a snapshot, which is how a node has it after a restart. A core of three nodes is
  then started from that node's directory, and the whole *list* is walked, page by page, with the default consistency.
- **Agent**: resident set of the shipped program, attached and at rest with an interval of 30 s.

## Figures

| figure | value | unit | |
|---|---|---|---|
{{range .Figures}}| {{.Name}} | {{.Value}} | {{.Unit}} | {{.Note}} |
{{end}}
## Where the time goes

Profiles taken under the same loads, outside of the measured windows.
{{range .Profiles}}
### {{.Title}}

` + "```" + `
{{range .Lines}}{{.}}
{{end}}` + "```" + `
{{end}}`))

// pageData is what the page is made of.
type pageData struct {
	Command, Date, Machine                         string
	Devices, Hostiles, Batch                       int
	Lanes, ClusterBatch, Askers, Filled, FillSites int
	SpoolData, CustodyLanes, Calm                  int
	ChunkKiB, Downloaders                          int
	Buffered, Drainers                             int
	CalmEvery, CalmWindow, DrainEvery, DrainRest   time.Duration
	Verdicts                                       []pageVerdict
	Figures                                        []pageFigure
	Profiles                                       []pageProfile
}

type pageVerdict struct{ Name, Target, Floor, Own, Ratio, Met, Note string }

type pageFigure struct{ Name, Value, Unit, Note string }

type pageProfile struct {
	Title string
	Lines []string
}

// writeDocument renders the page of this run.
func (b *bench) writeDocument(path string) error {
	machine, err := machine()
	if err != nil {
		return err
	}
	text, err := b.document(time.Now().UTC(), machine)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // G306: a document is for everybody
		return fmt.Errorf("write the document: %w", err)
	}
	return nil
}

// document renders the page for a run at the given time.
func (b *bench) document(at time.Time, machine string) ([]byte, error) {
	d := pageData{
		Command: b.command(), Date: at.Format(time.DateOnly), Machine: machine, Devices: b.size.devices, Hostiles: b.size.hostiles, Batch: floorBatch,
		Lanes: lanes, ClusterBatch: b.size.clusterBatch, Askers: askers, Filled: b.size.filled, FillSites: fillSites,
		SpoolData: spoolData, CustodyLanes: custodyLanes, ChunkKiB: downloadChunk / kib, Downloaders: downloaders, Calm: b.size.calm, CalmEvery: b.size.calmEvery, CalmWindow: b.size.calmWindow,
		Buffered: b.size.buffered, Drainers: b.size.drainers, DrainEvery: b.size.drainEvery, DrainRest: b.size.drainRest,
	}
	for i := range b.verdicts {
		v := &b.verdicts[i]
		d.Verdicts = append(d.Verdicts, pageVerdict{
			v.name, v.target, v.against(), number(v.own) + " " + v.unit, fmt.Sprintf("%.2f", v.ratio), v.word(), v.note,
		})
	}
	for _, f := range b.figures {
		d.Figures = append(d.Figures, pageFigure{f.Name, number(f.Value), f.Unit, f.Note})
	}
	for _, p := range b.profiles {
		d.Profiles = append(d.Profiles, pageProfile{p.title, p.lines})
	}
	var out bytes.Buffer
	if err := page.Execute(&out, d); err != nil {
		return nil, fmt.Errorf("render the document: %w", err)
	}
	return out.Bytes(), nil
}

// command is how the run that wrote the page can be repeated.
func (b *bench) command() string {
	switch {
	case b.opt.quick:
		return "go run ./sim/bench -quick"
	case b.opt.only != "":
		return "go run ./sim/bench -only " + b.opt.only
	}
	return "make bench"
}

// machine sums up what the run ran on, without naming it.
func machine() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("kernel's version: %w", err)
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return fmt.Sprintf("%d cores (%s), Linux %s, %s", runtime.NumCPU(), runtime.GOARCH, release, runtime.Version()), nil
}
