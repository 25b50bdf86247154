package hostio

import (
	"testing"
	"unsafe"
)

// TestRingLayout: sizes and offsets of linux/io_uring.h.
func TestRingLayout(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"struct io_uring_params", unsafe.Sizeof(ringParams{}), 120},
		{"features", unsafe.Offsetof(ringParams{}.features), 20},
		{"sq_off", unsafe.Offsetof(ringParams{}.sq), 40},
		{"sq_off.array", unsafe.Offsetof(ringParams{}.sq.array), 24},
		{"cq_off", unsafe.Offsetof(ringParams{}.cq), 80},
		{"cq_off.cqes", unsafe.Offsetof(ringParams{}.cq.cqes), 20},
		{"struct io_uring_sqe", unsafe.Sizeof(sqe{}), 64},
		{"sqe.fd", unsafe.Offsetof(sqe{}.fd), 4},
		{"sqe.off", unsafe.Offsetof(sqe{}.off), 8},
		{"sqe.addr", unsafe.Offsetof(sqe{}.addr), 16},
		{"sqe.len", unsafe.Offsetof(sqe{}.len), 24},
		{"sqe.fsync_flags", unsafe.Offsetof(sqe{}.opFlags), 28},
		{"sqe.user_data", unsafe.Offsetof(sqe{}.userData), 32},
		{"struct io_uring_cqe", unsafe.Sizeof(cqe{}), 16},
		{"cqe.res", unsafe.Offsetof(cqe{}.res), 8},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d; want %d", c.name, c.got, c.want)
		}
	}
}
