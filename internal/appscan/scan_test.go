package appscan

import (
	"maps"
	"slices"
	"testing"
)

// code is an object of machine code at 0x1000, and of data at 0x8000.
func code(text []byte, data ...byte) *object {
	return &object{label: "app", entry: 0x1000, text: []span{{0x1000, text}}, data: []span{{0x8000, data}},
		slots: map[uint64]slot{}, exports: map[string][]uint64{}}
}

func TestSyscallNumbers(t *testing.T) {
	for name, c := range map[string]struct {
		text   []byte
		want   []int
		hidden int
	}{
		"constant": {[]byte{
			0xb8, 0x39, 0, 0, 0, // mov eax, 57
			0x0f, 0x05, // syscall
			0xc3, // ret
		}, []int{57}, 0},
		"zero": {[]byte{
			0x31, 0xc0, // xor eax, eax
			0x0f, 0x05, 0xc3,
		}, []int{0}, 0},
		"copied": {[]byte{
			0x41, 0xb9, 0xca, 0, 0, 0, // mov r9d, 202
			0x31, 0xc0, // xor eax, eax
			0x44, 0x89, 0xc8, // mov eax, r9d
			0x0f, 0x05, 0xc3,
		}, []int{202}, 0},
		"a part is no number": {[]byte{
			0x31, 0xc0, // xor eax, eax
			0xb0, 0x09, // mov al, 9
			0x0f, 0x05, 0xc3,
		}, nil, 1},
		"two ways": {[]byte{
			0xb8, 0x01, 0, 0, 0, // mov eax, 1
			0x74, 0x05, // je +5
			0xb8, 0x02, 0, 0, 0, // mov eax, 2
			0x0f, 0x05, 0xc3,
		}, []int{1, 2}, 0},
		"a result": {[]byte{
			0xb8, 0x01, 0, 0, 0,
			0x0f, 0x05,
			0x0f, 0x05, 0xc3,
		}, []int{1}, 1},
		"a called function's result": {[]byte{
			0xb8, 0x01, 0, 0, 0,
			0xe8, 0x03, 0, 0, 0, // call +3
			0x0f, 0x05, 0xc3,
			0xc3,
		}, nil, 1},
		"kept over a call": {[]byte{
			0xbb, 0x07, 0, 0, 0, // mov ebx, 7
			0xe8, 0x05, 0, 0, 0, // call +5
			0x89, 0xd8, // mov eax, ebx
			0x0f, 0x05, 0xc3,
			0xc3,
		}, []int{7}, 0},
		"behind a return": {[]byte{
			0xc3,
			0xb8, 0x39, 0, 0, 0,
			0x0f, 0x05, 0xc3,
		}, nil, 0},
		"an address": {[]byte{
			0x48, 0x8d, 0x05, 0x01, 0, 0, 0, // lea rax, [rip+1]
			0xc3,
			0xb8, 0x39, 0, 0, 0,
			0x0f, 0x05, 0xc3,
		}, []int{57}, 0},
		"an address before": {[]byte{
			0xeb, 0x08, // jmp +8
			0xb8, 0x39, 0, 0, 0,
			0x0f, 0x05, 0xc3,
			0x48, 0x8d, 0x05, 0xf1, 0xff, 0xff, 0xff, // lea rax, [rip-15]
			0xc3,
		}, []int{57}, 0},
		"larger than any": {[]byte{
			0xb8, 0x01, 0x20, 0, 0, // mov eax, 8193
			0x0f, 0x05, 0xc3,
		}, nil, 1},
	} {
		s := newScanner([]*object{code(c.text)})
		s.run()
		if got := slices.Sorted(maps.Keys(s.uses.Calls)); !slices.Equal(got, c.want) || len(s.uses.Hidden) != c.hidden {
			t.Errorf("%s: calls %v, hidden %q; want %v and %d", name, got, s.uses.Hidden, c.want, c.hidden)
		}
	}
}

func TestJumpTable(t *testing.T) {
	text := []byte{
		0x48, 0x8d, 0x05, 0xf9, 0x6f, 0, 0, // lea rax, [rip+0x6ff9]: 0x8000
		0xff, 0xe0, // jmp rax
		0xb8, 0x0a, 0, 0, 0, // 0x1009: mov eax, 10
		0x0f, 0x05, 0xc3,
		0xb8, 0x0b, 0, 0, 0, // 0x1011: mov eax, 11
		0x0f, 0x05, 0xc3,
	}
	// The distances from the table to both, and one that leads nowhere.
	o := code(text, 0x09, 0x90, 0xff, 0xff, 0x11, 0x90, 0xff, 0xff, 1, 2, 3, 4)
	s := newScanner([]*object{o})
	s.run()
	if got, want := slices.Sorted(maps.Keys(s.uses.Calls)), []int{10, 11}; !slices.Equal(got, want) {
		t.Errorf("calls = %v; want %v", got, want)
	}
}

// TestImports has a program that calls a library's function by a stub, with
// constants that say what for; the library's other function is not reached.
func TestImports(t *testing.T) {
	app := code([]byte{
		0xbf, 0x01, 0, 0, 0, // mov edi, 1
		0xe8, 0x10, 0, 0, 0, // call 0x101a
		0xbf, 0xce, 0, 0, 0, // mov edi, 206
		0xff, 0x15, 0xf3, 0x6f, 0, 0, // call [rip+0x6ff3]: 0x8008
		0xc3, 0x90, 0x90, 0x90, 0x90,
		0xf3, 0x0f, 0x1e, 0xfa, // 0x101a: endbr64
		0xff, 0x25, 0xdc, 0x6f, 0, 0, // jmp [rip+0x6fdc]: 0x8000
	}, make([]byte, 16)...)
	app.slots[0x8000] = slot{symbol: "socket"}
	app.slots[0x8008] = slot{symbol: "syscall"}
	libc := code([]byte{
		0xb8, 0x29, 0, 0, 0, // mov eax, 41
		0x0f, 0x05, 0xc3,
		0xb8, 0x2a, 0, 0, 0, // 0x1008: mov eax, 42
		0x0f, 0x05, 0xc3,
	})
	libc.label, libc.entry = "libc.so.6", 0
	libc.exports["socket"], libc.exports["connect"] = []uint64{0x1000}, []uint64{0x1008}
	s := newScanner([]*object{app, libc})
	s.run()
	u := s.uses
	if got, want := slices.Sorted(maps.Keys(u.Calls)), []int{41, 206}; !slices.Equal(got, want) {
		t.Errorf("calls = %v; want %v", got, want)
	}
	if u.Calls[41] != "app calls socket" || !u.families[1]["app"] || !u.Callers["socket"]["app"] || !u.Own[206]["app"] || u.Own[41] != nil {
		t.Errorf("uses = %+v; want socket of family 1 and io_setup of its own", u)
	}
}
