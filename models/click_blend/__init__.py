"""The default learner of clicks, made of others.

`click_blend` has its equations, `kernel` its kernels.
"""
