"""Faults, made on purpose and counted: a fault test first proves that its fault happened.

`unimq_contract.faults.proxy` does to TCP connections what networks do; `unimq_contract.faults.broker` kills, freezes
and restarts a broker on tap; `unimq_contract.faults.client` is a process that sends and receives and can be killed or
frozen, while its history survives; `unimq_contract.faults.churn` lets members join and leave a group all the time.
"""
