// Package install is what touches a device: it puts the files of releases on its disk, switches from one to another, restarts what runs from
// them, and looks whether that is well. What to install, and when to go back, package agent/reconcile decides.
//
// A [Slot] is the directory of one thing that is installed. docs/device-files.md has the table of its files:
//
//	layout                1
//	current               a symbolic link to releases/D; none: nothing is installed
//	releases/D            an installed release; D is the artifact's digest in hexadecimal digits
//	releases/D.manifest   the bytes of its manifest
//	staging/D/tree        a release that is being made, until its rename to releases/D
//	staging/D/patches     patches that are on their way
//	trash/N               what is being removed
//
// A release is complete and verified, or it has no name under releases: [Slot.Stage] verifies every chunk and then every file, syncs all of
// it, and renames it as a whole. [Slot.Switch] is one rename. So a device that loses power anywhere has the old release or the new one under
// current, never a part and never nothing; what was staged is looked through again, and what verifies is kept.
//
// No directory above a release can be entered by others than the agent's own user (and root), so what was verified is what is run. What
// comes out of a manifest is used below the release's own directory, opened as an [os.Root].
//
// A Slot is used by one goroutine at a time.
package install
