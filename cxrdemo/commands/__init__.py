"""The commands, one module each, and what `analyse` is made of.

`analyse` finds its inputs (`places`), does one file after the other (`one_file`), and tells of it
(`speaking`); `writing` puts a result on the disk whole or not at all.
"""
