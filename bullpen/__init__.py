"""bullpen"""
