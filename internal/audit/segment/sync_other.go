//go:build !linux

package segment

import "os"

// syncData puts what was written on the disk.
func syncData(f *os.File) error { return f.Sync() }
