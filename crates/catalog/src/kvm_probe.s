# The guest that proves that KVM runs guests: one sector, started by a BIOS. It does what every kernel does first:
# 64-bit mode with paging, SSE registers, and three ticks of a timer interrupt out of a halt. Then it writes 0x31 to
# QEMU's isa-debug-exit device at port 0x501, which ends QEMU with 2 * 0x31 + 1; 0x32 when SSE computes wrongly.
#
# as -o p.o kvm_probe.s && ld -Ttext 0 --oformat binary -o kvm_probe.bin p.o
.code16
.org 0
start:
  cli
  xor %ax,%ax
  mov %ax,%ds
  mov %ax,%es
  mov %ax,%ss
  mov $0x7c00,%sp
  # page tables at 0x1000..0x3fff
  mov $0x1000,%edi
  mov %edi,%cr3
  xor %eax,%eax
  mov $3072,%ecx
  cld
  rep stosl
  movl $0x2003,0x1000
  movl $0x3003,0x2000
  movl $0x0083,0x3000
  # PIC: irq0 -> 0x20, all else masked
  mov $0x11,%al
  out %al,$0x20
  mov $0x20,%al
  out %al,$0x21
  mov $0x04,%al
  out %al,$0x21
  mov $0x01,%al
  out %al,$0x21
  mov $0xfe,%al
  out %al,$0x21
  mov $0xff,%al
  out %al,$0xa1
  # IDT gate 0x20 at 0x4000+0x200
  movl $0x00080000+(0x7c00+tick-start),0x4200
  movl $0x00008e00,0x4204
  movl $0,0x4208
  movl $0,0x420c
  # long mode: PAE + OSFXSR, EFER.LME, PG|PE
  mov $0x6a0,%eax
  mov %eax,%cr4
  mov $0xc0000080,%ecx
  rdmsr
  or $0x100,%eax
  wrmsr
  lgdt 0x7c00+(gdtr-start)
  mov $0x80000011,%eax
  mov %eax,%cr0
  ljmp $8,$0x7c00+(long-start)
.code64
long:
  lidt 0x7c00+(idtr-start)
  xor %ebx,%ebx
  mov $0x5000,%esp
  # SSE must work
  mov $0x0123456789abcdef,%rax
  movq %rax,%xmm0
  paddq %xmm0,%xmm0
  movq %xmm0,%rcx
  add %rax,%rax
  cmp %rax,%rcx
  jne fail
  sti
wait:
  hlt
  cmp $3,%ebx
  jb wait
  cli
  mov $0x31,%al
  jmp say
fail:
  mov $0x32,%al
say:
  mov $0x501,%dx
  out %al,%dx
stop:
  hlt
  jmp stop
tick:
  inc %ebx
  push %rax
  mov $0x20,%al
  out %al,$0x20
  pop %rax
  iretq
.align 8
gdt:
  .quad 0
  .quad 0x00209a0000000000
gdtr:
  .word 15
  .long 0x7c00+(gdt-start)
idtr:
  .word 0x20f
  .quad 0x4000
.org 510
  .word 0xaa55
