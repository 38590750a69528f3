// Package build makes artifacts out of directories and files, and checks and signs what it made. It is what an operator's machine does: it
// reads and writes files, and talks to nobody. docs/artifact-format.md has the layout of what it writes.
//
// The same content and the same description give the same manifest, byte for byte, whatever the times, owners, umask and order of the files
// are; patches also depend on the library that compresses them.
package build
