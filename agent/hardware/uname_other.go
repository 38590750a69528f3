//go:build !linux

package hardware

// unameMachine is empty: agents run on Linux, elsewhere the package only has to build.
func unameMachine() string { return "" }
