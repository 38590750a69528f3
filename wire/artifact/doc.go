// Package artifact is the format of what is installed on devices: a manifest, which names every file and every chunk of content by its
// digest. docs/artifact-format.md has the tables. Who may sign a manifest is a matter of wire/seal.
//
// A manifest comes from a publisher and says what is written to a device's disk, so everything in it is held against rules before any of
// it is used: sizes and numbers are bounded, and no path and no link leads out of the release. The package does no I/O.
package artifact
