"""How many small problems are laid out on a machine; both wings stand on this.

`dispatch` gives a function of one lane the form that its platform runs best, `native` is that form
on a CPU and holds all that is XLA's own, `chunks` deals a batch to the cores.
"""
