package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/wire/artifact/build"
)

type buildFlags struct {
	manifest, out, version string
	release                uint64
	from                   []string
}

const buildLong = `Build cuts what lies in SOURCE, a directory or one file, into chunks, and writes them with a manifest into DIR, which it makes.
The same content makes the same artifact, whoever builds it and when. Of permissions only "executable" counts. It asks no core.

FILE describes the artifact, in YAML:

  name: camera              # of the artifact, from release to release the same
  version: 1.4.2            # for people
  release: 17               # from 1; grows from release to release
  kind: tree                # or file; what SOURCE is, if it is not said
  fits:                     # which devices it is for; nothing: all
    arch: [arm64]
    soc: [nvidia-jetson-xavier-nx]
    accelerators: [nvidia-gpu]
    min_ram: 2GiB
    os: [Ubuntu 22.04]      # how the system's name begins
  unit: camera.service      # systemd unit to restart after the switch
  health:                   # all must pass; each with timeout and every
    - file: bin/camera
    - exec: [bin/check, --fast]
      timeout: 10s
    - http: {port: 8080, path: /healthz}
    - tcp: 8080
    - unit: camera.service
  start: 1m                 # for how long they may fail after the switch
  soak: 5m                  # for how long they must pass

With --from, an earlier build, files that changed get a patch where that is much smaller than their new chunks. That is what makes
updates of executables small.

Refused are, with their path: symbolic links that lead out, devices, pipes, sockets, files with setuid, setgid or sticky bit, and files
that change while they are read.`

func artifactsBuild(a *app) *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use: "build SOURCE --manifest FILE --out DIR", Short: "build an artifact from a directory or a file",
		Long: buildLong,
		Example: `  holdfast artifacts build ./dist --manifest camera.yaml --out camera-1.4
  holdfast artifacts build ./dist --manifest camera.yaml --version 1.5 --release 18 --out camera-1.5 --from camera-1.4`,
		Args: takes("SOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needs(cmd, "manifest", "out"); err != nil {
				return err
			}
			s, err := build.ReadSpec(f.manifest)
			if err != nil {
				return usage("%w", err)
			}
			if f.version != "" {
				s.Version = f.version
			}
			if f.release != 0 {
				s.Release = f.release
			}
			from, err := openBuilds(f.from)
			if err != nil {
				return err
			}
			show, done := a.counter("MiB read:")
			last := uint64(0)
			r, err := build.Build(cmd.Context(), build.Options{
				Source: args[0], Spec: s, Out: f.out, From: from,
				Progress: func(read, _ uint64) {
					if mib := read >> 20; mib > last {
						last = mib
						show(int(mib))
					}
				},
			})
			done()
			switch {
			case errors.Is(err, build.ErrRefused):
				return usage("%w", err)
			case err != nil:
				return err
			}
			l := localArtifactOf(r.Dir)
			l.Chunks, l.StoredBytes, l.PatchBytes = &r.ChunkCount, &r.Stored, &r.PatchBytes
			return a.print(l, l.sheet().Write)
		},
	}
	c.Flags().StringVar(&f.manifest, "manifest", "", "`file` that describes the artifact")
	c.Flags().StringVar(&f.out, "out", "", "`directory` to make; nothing may be there")
	c.Flags().StringVar(&f.version, "version", "", "`text` in the place of the file's version")
	c.Flags().Uint64Var(&f.release, "release", 0, "`number` in the place of the file's release")
	c.Flags().StringArrayVar(&f.from, "from", nil, "`directory` of an earlier build to make patches from; may be repeated")
	return c
}
