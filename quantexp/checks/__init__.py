"""The self-checks of a run: does each network compute what it should, and what was measured?

    repeated   two calls on the same inputs agree
    stored     the network that was stored and read back computes the same
    kernels    each quantized layer computes what its arithmetic says, and the network what the float network does
    traced     the graph that a flow traced computes what the network computes

A network that fails ends the run with a CheckError. What is noteworthy, but not wrong, is a finding.
"""
