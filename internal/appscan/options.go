package appscan

import "golang.org/x/sys/unix"

// option is a line of the kernel's configuration and what shows that it is needed.
type option struct {
	config []string
	calls  []int // system calls that do not exist without it
	// functions are the C library's for those calls; a final * stands for any end.
	functions []string
	families  []int16  // address families
	strings   []string // file names
	values    []value  // what a run may show besides
	mounts    []string // file systems
	remark    string
}

// value is a system call with what it is to do: the argument, or the bits of it,
// that guests/init/trace.h reports; of setsockopt(2) level<<16 | option.
type value struct {
	call int
	is   uint32
}

// newNamespaces are the bits of clone(2) and unshare(2) that ask for namespaces.
const newNamespaces = 0x7e020080

// atStart are system calls that the C library makes at each start of a program or
// thread, and does without.
var atStart = map[int]bool{unix.SYS_SET_ROBUST_LIST: true, unix.SYS_RSEQ: true}

// libcFiles are those that the C library reads by itself, and does without: the number of CPUs comes from
// sched_getaffinity(2) then, the most groups that a process may have from limits.h, and where a static program
// lies matters only to dlopen.
var libcFiles = map[string]bool{"/sys/devices/system/cpu/online": true, "/proc/sys/kernel/ngroups_max": true, "/proc/self/exe": true}

// options are those of Linux 6.1 that lupine-base does not have. Which system
// calls they bring is what kernel/sys_ni.c lists as conditional, and the
// Makefiles and Kconfig files that decide about the conditions.
var options = []option{
	{config: []string{"FUTEX"}, calls: []int{unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_GET_ROBUST_LIST, 449 /* futex_waitv */},
		functions: []string{"pthread_create", "thrd_create", "sem_wait", "sem_timedwait", "sem_open", "pthread_cond_wait", "pthread_cond_timedwait"},
		remark:    "the C library's locks wait by it; a process with one thread never waits, and set_robust_list may fail"},
	{config: []string{"EPOLL"}, calls: []int{unix.SYS_EPOLL_CREATE, unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2},
		functions: []string{"epoll_*"}},
	{config: []string{"EVENTFD"}, calls: []int{unix.SYS_EVENTFD, unix.SYS_EVENTFD2}, functions: []string{"eventfd"}},
	{config: []string{"SIGNALFD"}, calls: []int{unix.SYS_SIGNALFD, unix.SYS_SIGNALFD4}, functions: []string{"signalfd"}},
	{config: []string{"TIMERFD"}, calls: []int{unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMERFD_GETTIME}, functions: []string{"timerfd_*"}},
	{config: []string{"AIO"}, calls: []int{unix.SYS_IO_SETUP, unix.SYS_IO_DESTROY, unix.SYS_IO_SUBMIT, unix.SYS_IO_CANCEL, unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS}},
	{config: []string{"IO_URING"}, calls: []int{unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER}},
	{config: []string{"INOTIFY_USER"}, calls: []int{unix.SYS_INOTIFY_INIT, unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_RM_WATCH}, functions: []string{"inotify_*"}},
	{config: []string{"FANOTIFY"}, calls: []int{unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK}, functions: []string{"fanotify_*"}},
	{config: []string{"FHANDLE"}, calls: []int{unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT}, functions: []string{"name_to_handle_at", "open_by_handle_at"}},
	{config: []string{"FILE_LOCKING"}, calls: []int{unix.SYS_FLOCK}, functions: []string{"flock", "lockf", "lockf64"},
		values: []value{{unix.SYS_FCNTL, 5}, {unix.SYS_FCNTL, 6}, {unix.SYS_FCNTL, 7}, {unix.SYS_FCNTL, 36}, {unix.SYS_FCNTL, 37}, {unix.SYS_FCNTL, 38}}},
	{config: []string{"ADVISE_SYSCALLS"}, calls: []int{unix.SYS_MADVISE, unix.SYS_FADVISE64, unix.SYS_PROCESS_MADVISE}, functions: []string{"madvise", "posix_madvise", "posix_fadvise*"},
		remark: "the C library gives memory back by madvise and does without"},
	{config: []string{"MEMBARRIER"}, calls: []int{unix.SYS_MEMBARRIER}},
	{config: []string{"RSEQ"}, calls: []int{unix.SYS_RSEQ}, remark: "the C library tries it at each start of a thread and does without"},
	{config: []string{"MULTIUSER"}, calls: []int{unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID,
		unix.SYS_SETGROUPS, unix.SYS_GETGROUPS, unix.SYS_GETRESUID, unix.SYS_GETRESGID, unix.SYS_SETFSUID, unix.SYS_SETFSGID, unix.SYS_CAPGET, unix.SYS_CAPSET},
		functions: []string{"setuid", "setgid", "seteuid", "setegid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "initgroups", "getgroups", "capset", "cap_set_proc"},
		remark:    "without it everything runs as root"},
	{config: []string{"SYSVIPC"}, calls: []int{unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SHMDT, unix.SYS_SEMGET, unix.SYS_SEMOP, unix.SYS_SEMCTL,
		unix.SYS_SEMTIMEDOP, unix.SYS_MSGGET, unix.SYS_MSGSND, unix.SYS_MSGRCV, unix.SYS_MSGCTL},
		functions: []string{"shmget", "shmat", "semget", "semop", "msgget", "ftok"}},
	{config: []string{"POSIX_MQUEUE"}, calls: []int{unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK, unix.SYS_MQ_TIMEDSEND, unix.SYS_MQ_TIMEDRECEIVE, unix.SYS_MQ_NOTIFY, unix.SYS_MQ_GETSETATTR},
		functions: []string{"mq_*"}, mounts: []string{"mqueue"}},
	{config: []string{"SWAP"}, calls: []int{unix.SYS_SWAPON, unix.SYS_SWAPOFF}, functions: []string{"swapon"}},
	{config: []string{"BPF_SYSCALL"}, calls: []int{unix.SYS_BPF}},
	{config: []string{"PERF_EVENTS"}, calls: []int{unix.SYS_PERF_EVENT_OPEN}},
	{config: []string{"KEYS"}, calls: []int{unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL}},
	{config: []string{"SECCOMP"}, calls: []int{unix.SYS_SECCOMP}, values: []value{{unix.SYS_PRCTL, unix.PR_SET_SECCOMP}}},
	{config: []string{"NAMESPACES"}, functions: []string{"unshare", "setns"}},
	{config: []string{"USERFAULTFD"}, calls: []int{unix.SYS_USERFAULTFD}},
	{config: []string{"SECRETMEM"}, calls: []int{unix.SYS_MEMFD_SECRET}},
	{config: []string{"CROSS_MEMORY_ATTACH"}, calls: []int{unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV}, functions: []string{"process_vm_*"}},
	{config: []string{"KCMP"}, calls: []int{unix.SYS_KCMP}},
	{config: []string{"NUMA"}, calls: []int{unix.SYS_MBIND, unix.SYS_GET_MEMPOLICY, unix.SYS_SET_MEMPOLICY, unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES}, functions: []string{"mbind", "numa_*"}},
	{config: []string{"MODIFY_LDT_SYSCALL"}, calls: []int{unix.SYS_MODIFY_LDT}},
	{config: []string{"BSD_PROCESS_ACCT"}, calls: []int{unix.SYS_ACCT}, functions: []string{"acct"}},

	{config: []string{"SHMEM", "TMPFS"}, calls: []int{unix.SYS_MEMFD_CREATE}, functions: []string{"shm_open", "memfd_create"}, strings: []string{"/dev/shm"}, mounts: []string{"tmpfs"}},
	{config: []string{"PROC_FS"}, strings: []string{"/proc/"}, mounts: []string{"proc"}, remark: "it has to be mounted"},
	{config: []string{"PROC_SYSCTL"}, strings: []string{"/proc/sys/"}},
	{config: []string{"SYSFS"}, strings: []string{"/sys/"}, mounts: []string{"sysfs"}, remark: "it has to be mounted"},
	{config: []string{"UNIX98_PTYS"}, functions: []string{"posix_openpt", "openpty", "forkpty", "getpt"}, strings: []string{"/dev/ptmx"},
		values: []value{{unix.SYS_IOCTL, unix.TIOCGPTN}}, mounts: []string{"devpts"}},
	{config: []string{"UNIX"}, functions: []string{"socketpair"}, families: []int16{unix.AF_UNIX}},
	{config: []string{"IPV6"}, functions: []string{"in6addr_any", "in6addr_loopback"}, families: []int16{unix.AF_INET6}},
	{config: []string{"PACKET"}, families: []int16{unix.AF_PACKET}},

	// These show in a run alone.
	{config: []string{"TRANSPARENT_HUGEPAGE", "TRANSPARENT_HUGEPAGE_MADVISE"}, values: []value{{unix.SYS_MADVISE, unix.MADV_HUGEPAGE}}, remark: "a request for speed, which may fail"},
	{config: []string{"HUGETLBFS"}, values: []value{{unix.SYS_MMAP, unix.MAP_HUGETLB}, {unix.SYS_SHMGET, unix.MAP_HUGETLB >> 7}}, mounts: []string{"hugetlbfs"}},
	{config: []string{"IP_MULTICAST"}, values: []value{{unix.SYS_SETSOCKOPT, unix.IP_ADD_MEMBERSHIP}}},
	{config: []string{"OVERLAY_FS"}, mounts: []string{"overlay"}},
}

// callNames are the system calls that options name, for printing.
var callNames = map[int]string{
	unix.SYS_FUTEX: "futex", unix.SYS_SET_ROBUST_LIST: "set_robust_list", unix.SYS_GET_ROBUST_LIST: "get_robust_list", 449: "futex_waitv",
	unix.SYS_EPOLL_CREATE: "epoll_create", unix.SYS_EPOLL_CREATE1: "epoll_create1", unix.SYS_EPOLL_CTL: "epoll_ctl", unix.SYS_EPOLL_WAIT: "epoll_wait",
	unix.SYS_EPOLL_PWAIT: "epoll_pwait", unix.SYS_EPOLL_PWAIT2: "epoll_pwait2", unix.SYS_EVENTFD: "eventfd", unix.SYS_EVENTFD2: "eventfd2",
	unix.SYS_SIGNALFD: "signalfd", unix.SYS_SIGNALFD4: "signalfd4", unix.SYS_TIMERFD_CREATE: "timerfd_create", unix.SYS_TIMERFD_SETTIME: "timerfd_settime",
	unix.SYS_TIMERFD_GETTIME: "timerfd_gettime", unix.SYS_IO_SETUP: "io_setup", unix.SYS_IO_DESTROY: "io_destroy", unix.SYS_IO_SUBMIT: "io_submit",
	unix.SYS_IO_CANCEL: "io_cancel", unix.SYS_IO_GETEVENTS: "io_getevents", unix.SYS_IO_PGETEVENTS: "io_pgetevents",
	unix.SYS_IO_URING_SETUP: "io_uring_setup", unix.SYS_IO_URING_ENTER: "io_uring_enter", unix.SYS_IO_URING_REGISTER: "io_uring_register",
	unix.SYS_INOTIFY_INIT: "inotify_init", unix.SYS_INOTIFY_INIT1: "inotify_init1", unix.SYS_INOTIFY_ADD_WATCH: "inotify_add_watch",
	unix.SYS_INOTIFY_RM_WATCH: "inotify_rm_watch", unix.SYS_FANOTIFY_INIT: "fanotify_init", unix.SYS_FANOTIFY_MARK: "fanotify_mark",
	unix.SYS_NAME_TO_HANDLE_AT: "name_to_handle_at", unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at", unix.SYS_FLOCK: "flock",
	unix.SYS_MADVISE: "madvise", unix.SYS_FADVISE64: "fadvise64", unix.SYS_PROCESS_MADVISE: "process_madvise", unix.SYS_MEMBARRIER: "membarrier",
	unix.SYS_RSEQ: "rseq", unix.SYS_SETUID: "setuid", unix.SYS_SETGID: "setgid", unix.SYS_SETREUID: "setreuid", unix.SYS_SETREGID: "setregid",
	unix.SYS_SETRESUID: "setresuid", unix.SYS_SETRESGID: "setresgid", unix.SYS_SETGROUPS: "setgroups", unix.SYS_GETGROUPS: "getgroups",
	unix.SYS_GETRESUID: "getresuid", unix.SYS_GETRESGID: "getresgid", unix.SYS_SETFSUID: "setfsuid", unix.SYS_SETFSGID: "setfsgid",
	unix.SYS_CAPGET: "capget", unix.SYS_CAPSET: "capset", unix.SYS_SHMGET: "shmget", unix.SYS_SHMAT: "shmat", unix.SYS_SHMCTL: "shmctl",
	unix.SYS_SHMDT: "shmdt", unix.SYS_SEMGET: "semget", unix.SYS_SEMOP: "semop", unix.SYS_SEMCTL: "semctl", unix.SYS_SEMTIMEDOP: "semtimedop",
	unix.SYS_MSGGET: "msgget", unix.SYS_MSGSND: "msgsnd", unix.SYS_MSGRCV: "msgrcv", unix.SYS_MSGCTL: "msgctl", unix.SYS_MQ_OPEN: "mq_open",
	unix.SYS_MQ_UNLINK: "mq_unlink", unix.SYS_MQ_TIMEDSEND: "mq_timedsend", unix.SYS_MQ_TIMEDRECEIVE: "mq_timedreceive", unix.SYS_MQ_NOTIFY: "mq_notify",
	unix.SYS_MQ_GETSETATTR: "mq_getsetattr", unix.SYS_SWAPON: "swapon", unix.SYS_SWAPOFF: "swapoff", unix.SYS_BPF: "bpf",
	unix.SYS_PERF_EVENT_OPEN: "perf_event_open", unix.SYS_ADD_KEY: "add_key", unix.SYS_REQUEST_KEY: "request_key", unix.SYS_KEYCTL: "keyctl",
	unix.SYS_SECCOMP: "seccomp", unix.SYS_USERFAULTFD: "userfaultfd", unix.SYS_MEMFD_SECRET: "memfd_secret",
	unix.SYS_PROCESS_VM_READV: "process_vm_readv", unix.SYS_PROCESS_VM_WRITEV: "process_vm_writev", unix.SYS_KCMP: "kcmp", unix.SYS_MBIND: "mbind",
	unix.SYS_GET_MEMPOLICY: "get_mempolicy", unix.SYS_SET_MEMPOLICY: "set_mempolicy", unix.SYS_MIGRATE_PAGES: "migrate_pages",
	unix.SYS_MOVE_PAGES: "move_pages", unix.SYS_MODIFY_LDT: "modify_ldt", unix.SYS_ACCT: "acct", unix.SYS_MEMFD_CREATE: "memfd_create",
}
