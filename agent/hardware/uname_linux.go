package hardware

import "golang.org/x/sys/unix"

// unameMachine is the hardware name of the running kernel. uname(2) fails only for a bad pointer.
func unameMachine() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Machine[:])
}
