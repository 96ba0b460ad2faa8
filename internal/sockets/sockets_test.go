package sockets

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 1 1 0 100 0 0 10 0
   1: 0A00000A:C001 0700000A:1B9F 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
   2: 0100007F:3A99 0A00000A:C001 06 00000000:00000000 00:00000000 00000000     0        0 0 3 00000000
   3: broken
   4: 0A00000:C001 0700000A:1B9F 01
   5: 0A00000A:C001 0700000A:1B9FF 01
`
	tcp6 = `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:3A99 B80D0120000000000000000001000000:C003 05
   1: 0000000000000000FFFF00000100007F:3A99 0000000000000000FFFF00000A00000A:C004 08
`
)

func texts(t *testing.T, lists map[string]string) (out []string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range lists {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err = Each(dir, func(s Socket) bool {
		text := s.Local.String() + " " + s.Remote.String()
		if s.Open() {
			text += " open"
		}
		if s.Listens() {
			text += " listens"
		}
		out = append(out, text)
		return len(out) < 5
	})
	return out, err
}

func TestLists(t *testing.T) {
	t.Parallel()
	v4 := []string{"0.0.0.0:15001 0.0.0.0:0 listens", "10.0.0.10:49153 10.0.0.7:7071 open", "127.0.0.1:15001 10.0.0.10:49153"}
	v6 := []string{"[::1]:15001 [2001:db8::1]:49155 open", "127.0.0.1:15001 10.0.0.10:49156"}
	for name, test := range map[string]struct {
		lists map[string]string
		want  []string
		wrong bool
	}{
		"both families":         {map[string]string{"tcp": tcp, "tcp6": tcp6}, append(v4, v6...), false},
		"until it is enough":    {map[string]string{"tcp": tcp, "tcp6": tcp6 + tcp6}, append(v4, v6...), false},
		"a kernel without IPv6": {map[string]string{"tcp": tcp}, v4, false},
		"no list":               {nil, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := texts(t, test.lists)
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") || (err != nil) != test.wrong {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

// The kernel's own list has both ends of a connection, and where the listener is.
func TestTheKernelsList(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", host)
		if err != nil {
			t.Logf("no %s here: %v", host, err)
			continue
		}
		defer l.Close()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		near, far := Plain(netip.MustParseAddrPort(conn.LocalAddr().String())), Plain(netip.MustParseAddrPort(l.Addr().String()))
		ends, listens := 0, 0
		if err := Each(OfThread, func(s Socket) bool {
			switch {
			case s.Open() && (s.Local == near && s.Remote == far || s.Local == far && s.Remote == near):
				ends++
			case s.Listens() && s.Local == far:
				listens++
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if ends != 2 || listens != 1 {
			t.Errorf("%s: %d ends, %d listeners", host, ends, listens)
		}
	}
}

func FuzzLists(f *testing.F) {
	for _, seed := range []string{tcp, tcp6, "", "0: 0:0 0:0 01", ": : : :"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		_, _ = scan(strings.NewReader(list), func(s Socket) bool {
			if !s.Local.Addr().IsValid() || !s.Remote.Addr().IsValid() {
				t.Errorf("a socket without an address: %+v", s)
			}
			return true
		})
	})
}
