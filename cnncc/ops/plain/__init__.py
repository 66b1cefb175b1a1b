"""Numpy functions written to be read: references of operations call them, and `cnncc.to_numpy` prints their source.

They know nothing of the rest of cnncc: arrays and numbers in, arrays out. Sizes of windows are tuples with one number
per spatial axis; pads are the begin of every axis, then the end of every axis.
"""
