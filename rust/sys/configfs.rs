// SPDX-License-Identifier: GPL-2.0-only

//! A configfs subsystem of two levels (`fs/configfs`, `include/linux/configfs.h`): directories that users make with
//! mkdir, attributes in them, and in each one default directory with attributes and items of its own.
//!
//! ```text
//! <subsystem>/<top>/<attribute>
//!                   <default group>/<attribute>
//!                                   <leaf>/<attribute>
//! ```
//!
//! The kernel crate's own configfs knows neither default groups nor permissions.

use super::bindings;
use super::page::Page;
use core::ffi::CStr;
use core::marker::PhantomData;
use core::ptr::null_mut;
use kernel::error::Error;
use kernel::ffi::c_char;
use kernel::prelude::*;

/// What the directories of a subsystem stand for. All functions run in process context; those that make and drop are
/// called one at a time (configfs holds the subsystem's mutex).
pub trait Tree: 'static {
    /// What a directory of the first level stands for.
    type Top: Send + Sync + 'static;
    /// What an item in a default group stands for.
    type Leaf: Send + Sync + 'static;
    /// Name of the subsystem.
    const NAME: &'static CStr;
    /// Name of the default group.
    const DEFAULT_GROUP: &'static CStr;

    /// mkdir on the first level. The error goes to the caller.
    fn make_top(name: &CStr) -> Result<Self::Top>;
    /// rmdir on the first level. Attributes may be in use until the value is dropped.
    fn drop_top(top: &Self::Top);
    /// mkdir in the default group of `top`.
    fn make_leaf(top: &Self::Top, name: &CStr) -> Result<Self::Leaf>;
    /// rmdir in the default group of `top`.
    fn drop_leaf(top: &Self::Top, leaf: &Self::Leaf);
}

/// What was written to an attribute.
pub struct Input<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// Up to the first NUL.
    pub text: &'a CStr,
}

/// One attribute: a file.
pub trait Attribute: 'static {
    /// What it belongs to.
    type Of;
    /// Name of the file.
    const NAME: &'static CStr;
    /// Permissions of the file. One that can be written to has 0o200 set.
    const MODE: u16;
    /// Writes the file's text.
    fn show(of: &Self::Of, page: &mut Page) -> Result;
    /// Takes what was written.
    fn store(of: &Self::Of, input: &Input<'_>) -> Result;
}

/// An attribute in the form that configfs wants, for one place in the tree.
pub struct Entry<T: Tree> {
    raw: bindings::configfs_attribute,
    tree: PhantomData<T>,
}

type Show = unsafe extern "C" fn(*mut bindings::config_item, *mut c_char) -> isize;
type Store = unsafe extern "C" fn(*mut bindings::config_item, *const c_char, usize) -> isize;

impl<T: Tree> Entry<T> {
    fn new<A: Attribute>(show: Show, store: Store) -> Self {
        let raw = bindings::configfs_attribute {
            ca_name: A::NAME.as_char_ptr(),
            ca_owner: null_mut(),
            ca_mode: A::MODE,
            show: Some(show),
            store: (A::MODE & 0o222 != 0).then_some(store),
        };
        Self { raw, tree: PhantomData }
    }

    /// In a directory of the first level.
    pub fn top<A: Attribute<Of = T::Top>>() -> Self {
        Self::new::<A>(show::<A, TopPlace<T>>, store::<A, TopPlace<T>>)
    }

    /// In the default group; it belongs to the directory above.
    pub fn default_group<A: Attribute<Of = T::Top>>() -> Self {
        Self::new::<A>(show::<A, DefaultPlace<T>>, store::<A, DefaultPlace<T>>)
    }

    /// In an item of the default group.
    pub fn leaf<A: Attribute<Of = (T::Leaf, ParentOf<T>)>>() -> Self {
        Self::new::<A>(show::<A, LeafPlace<T>>, store::<A, LeafPlace<T>>)
    }
}

/// Where an item's data is.
trait Place {
    type Data;
    /// # Safety
    ///
    /// `item` is an item of this place.
    unsafe fn data<'a>(item: *mut bindings::config_item) -> &'a Self::Data;
}

struct TopPlace<T>(PhantomData<T>);
struct DefaultPlace<T>(PhantomData<T>);
struct LeafPlace<T>(PhantomData<T>);

/// The directory above a leaf. It outlives the leaf: configfs removes what is below first.
pub struct ParentOf<T: Tree>(*const TopNode<T>);

// SAFETY: A pointer to something that can be shared.
unsafe impl<T: Tree> Send for ParentOf<T> {}
// SAFETY: As above.
unsafe impl<T: Tree> Sync for ParentOf<T> {}

impl<T: Tree> ParentOf<T> {
    /// What it stands for.
    pub fn get(&self) -> &T::Top {
        // SAFETY: See the type.
        unsafe { &(*self.0).data }
    }
}

#[repr(C)]
struct TopNode<T: Tree> {
    group: bindings::config_group,
    default_group: bindings::config_group,
    types: *const Types<T>,
    data: T::Top,
}

#[repr(C)]
struct LeafNode<T: Tree> {
    item: bindings::config_item,
    data: (T::Leaf, ParentOf<T>),
}

impl<T: Tree> Place for TopPlace<T> {
    type Data = T::Top;
    unsafe fn data<'a>(item: *mut bindings::config_item) -> &'a T::Top {
        // SAFETY: The item is the first field of the node's first field.
        unsafe { &(*item.cast::<TopNode<T>>()).data }
    }
}

impl<T: Tree> Place for DefaultPlace<T> {
    type Data = T::Top;
    unsafe fn data<'a>(item: *mut bindings::config_item) -> &'a T::Top {
        // SAFETY: The item is the first field of the node's default group.
        unsafe { &(*top_of_default::<T>(item.cast())).data }
    }
}

impl<T: Tree> Place for LeafPlace<T> {
    type Data = (T::Leaf, ParentOf<T>);
    unsafe fn data<'a>(item: *mut bindings::config_item) -> &'a Self::Data {
        // SAFETY: The item is the node's first field.
        unsafe { &(*item.cast::<LeafNode<T>>()).data }
    }
}

/// # Safety
///
/// `group` is the default group of a [`TopNode`].
unsafe fn top_of_default<T: Tree>(group: *mut bindings::config_group) -> *mut TopNode<T> {
    // SAFETY: By this function's contract.
    unsafe { group.byte_sub(core::mem::offset_of!(TopNode<T>, default_group)).cast() }
}

/// # Safety
///
/// For configfs alone: `item` is of the place, `page` is a page.
unsafe extern "C" fn show<A: Attribute, P: Place<Data = A::Of>>(
    item: *mut bindings::config_item,
    page: *mut c_char,
) -> isize {
    // SAFETY: By this function's contract; the item lives as long as configfs calls its attributes.
    let (of, mut page) = unsafe { (P::data(item), Page::new(page)) };
    match A::show(of, &mut page) {
        Ok(()) => page.len() as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// # Safety
///
/// For configfs alone: `item` is of the place, `text` has `len` bytes and a NUL behind them.
unsafe extern "C" fn store<A: Attribute, P: Place<Data = A::Of>>(
    item: *mut bindings::config_item,
    text: *const c_char,
    len: usize,
) -> isize {
    // SAFETY: By this function's contract.
    let (of, input) = unsafe {
        let bytes = core::slice::from_raw_parts(text, len);
        (P::data(item), Input { bytes, text: CStr::from_char_ptr(text) })
    };
    match A::store(of, &input) {
        Ok(()) => len as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// The types of all places, in the form that configfs wants.
struct Types<T: Tree> {
    top: Type<T>,
    default_group: Type<T>,
    leaf: Type<T>,
    root: bindings::config_item_type,
    group_operations: bindings::configfs_group_operations,
    default_operations: bindings::configfs_group_operations,
    top_operations: bindings::configfs_item_operations,
    leaf_operations: bindings::configfs_item_operations,
}

struct Type<T: Tree> {
    raw: bindings::config_item_type,
    entries: KVec<Entry<T>>,
    list: KVec<*mut bindings::configfs_attribute>,
}

impl<T: Tree> Type<T> {
    fn new(entries: KVec<Entry<T>>) -> Result<Self> {
        let list = KVec::with_capacity(entries.len() + 1, GFP_KERNEL)?;
        Ok(Self { raw: bindings::config_item_type::default(), entries, list })
    }

    /// Sets the pointers, once it is where it stays.
    fn link(&mut self, owner: *mut bindings::module) -> Result {
        for entry in self.entries.iter_mut() {
            entry.raw.ca_owner = owner;
            self.list.push(&raw mut entry.raw, GFP_KERNEL)?;
        }
        self.list.push(null_mut(), GFP_KERNEL)?;
        self.raw.ct_owner = owner;
        self.raw.ct_attrs = self.list.as_mut_ptr();
        Ok(())
    }
}

#[repr(C)]
struct Registered<T: Tree> {
    subsystem: bindings::configfs_subsystem,
    types: Types<T>,
}

/// A registered subsystem; dropping it takes it back. Its directories hold the module, so that by then there are none.
pub struct Subsystem<T: Tree>(KBox<Registered<T>>);

// SAFETY: configfs serializes what it does with it; we only register and unregister.
unsafe impl<T: Tree> Send for Subsystem<T> {}
// SAFETY: As above.
unsafe impl<T: Tree> Sync for Subsystem<T> {}

impl<T: Tree> Subsystem<T> {
    /// Registers it with these attributes.
    pub fn register(
        owner: &'static ThisModule,
        top: KVec<Entry<T>>,
        default_group: KVec<Entry<T>>,
        leaf: KVec<Entry<T>>,
    ) -> Result<Self> {
        let mut this = KBox::new(
            Registered {
                subsystem: bindings::configfs_subsystem::default(),
                types: Types {
                    top: Type::new(top)?,
                    default_group: Type::new(default_group)?,
                    leaf: Type::new(leaf)?,
                    root: bindings::config_item_type::default(),
                    group_operations: bindings::configfs_group_operations {
                        make_group: Some(make_top::<T>),
                        drop_item: Some(drop_top::<T>),
                        ..Default::default()
                    },
                    default_operations: bindings::configfs_group_operations {
                        make_item: Some(make_leaf::<T>),
                        drop_item: Some(drop_leaf::<T>),
                        ..Default::default()
                    },
                    top_operations: bindings::configfs_item_operations {
                        release: Some(release_top::<T>),
                        ..Default::default()
                    },
                    leaf_operations: bindings::configfs_item_operations {
                        release: Some(release_leaf::<T>),
                        ..Default::default()
                    },
                },
            },
            GFP_KERNEL,
        )?;
        let owner: *mut bindings::module = owner.as_ptr().cast();
        let Registered { subsystem, types } = &mut *this;
        types.top.link(owner)?;
        types.default_group.link(owner)?;
        types.leaf.link(owner)?;
        types.top.raw.ct_item_ops = &raw const types.top_operations;
        types.default_group.raw.ct_group_ops = &raw const types.default_operations;
        types.leaf.raw.ct_item_ops = &raw const types.leaf_operations;
        types.root.ct_group_ops = &raw const types.group_operations;
        types.root.ct_owner = owner;
        // SAFETY: The box stays where it is until it is unregistered in `drop`.
        unsafe {
            let group = &raw mut subsystem.su_group;
            bindings::config_group_init_type_name(group, T::NAME.as_char_ptr(), &raw const types.root);
            bindings::nd_mutex_init(&raw mut subsystem.su_mutex);
            kernel::error::to_result(bindings::configfs_register_subsystem(&raw mut *subsystem))?;
        }
        Ok(Self(this))
    }
}

impl<T: Tree> Drop for Subsystem<T> {
    fn drop(&mut self) {
        // SAFETY: Registered.
        unsafe { bindings::configfs_unregister_subsystem(&raw mut self.0.subsystem) };
    }
}

fn err_ptr<P>(error: Error) -> *mut P {
    error.to_errno() as isize as *mut P
}

/// # Safety
///
/// For configfs alone: `group` is the subsystem's, `name` a terminated string.
unsafe extern "C" fn make_top<T: Tree>(
    group: *mut bindings::config_group,
    name: *const c_char,
) -> *mut bindings::config_group {
    // SAFETY: The group is the first field of the subsystem, which is the first field of `Registered`.
    let (types, text) = unsafe { (&raw const (*group.cast::<Registered<T>>()).types, CStr::from_char_ptr(name)) };
    let made = T::make_top(text).and_then(|data| {
        let node = TopNode::<T> {
            group: bindings::config_group::default(),
            default_group: bindings::config_group::default(),
            types,
            data,
        };
        KBox::new(node, GFP_KERNEL).map_err(Error::from)
    });
    match made {
        Ok(node) => {
            let node = KBox::into_raw(node);
            // SAFETY: The node stays where it is until it is released; the types outlive it (see `Subsystem`).
            unsafe {
                let group = &raw mut (*node).group;
                let default_group = &raw mut (*node).default_group;
                bindings::config_group_init_type_name(group, name, &raw const (*types).top.raw);
                bindings::config_group_init_type_name(
                    default_group,
                    T::DEFAULT_GROUP.as_char_ptr(),
                    &raw const (*types).default_group.raw,
                );
                bindings::nd_configfs_add_default_group(default_group, group);
                group
            }
        }
        Err(error) => err_ptr(error),
    }
}

/// # Safety
///
/// For configfs alone: `item` was made by [`make_top`] and is not used by configfs any more.
unsafe extern "C" fn drop_top<T: Tree>(_: *mut bindings::config_group, item: *mut bindings::config_item) {
    // SAFETY: By this function's contract.
    unsafe {
        T::drop_top(TopPlace::<T>::data(item));
        bindings::config_item_put(item);
    }
}

/// # Safety
///
/// For configfs alone: `item` was made by [`make_top`], and this was its last reference.
unsafe extern "C" fn release_top<T: Tree>(item: *mut bindings::config_item) {
    // SAFETY: By this function's contract; made from a box.
    drop(unsafe { KBox::from_raw(item.cast::<TopNode<T>>()) });
}

/// # Safety
///
/// For configfs alone: `group` is the default group of a [`TopNode`], `name` a terminated string.
unsafe extern "C" fn make_leaf<T: Tree>(
    group: *mut bindings::config_group,
    name: *const c_char,
) -> *mut bindings::config_item {
    // SAFETY: By this function's contract.
    let (top, text) = unsafe { (top_of_default::<T>(group), CStr::from_char_ptr(name)) };
    // SAFETY: As above.
    let made = T::make_leaf(unsafe { &(*top).data }, text).and_then(|data| {
        let node = LeafNode::<T> { item: bindings::config_item::default(), data: (data, ParentOf(top)) };
        KBox::new(node, GFP_KERNEL).map_err(Error::from)
    });
    match made {
        Ok(node) => {
            let node = KBox::into_raw(node);
            // SAFETY: As in `make_top`.
            unsafe {
                let item = &raw mut (*node).item;
                bindings::config_item_init_type_name(item, name, &raw const (*(*top).types).leaf.raw);
                item
            }
        }
        Err(error) => err_ptr(error),
    }
}

/// # Safety
///
/// For configfs alone: `group` is the default group that `item` was made in.
unsafe extern "C" fn drop_leaf<T: Tree>(group: *mut bindings::config_group, item: *mut bindings::config_item) {
    // SAFETY: By this function's contract.
    unsafe {
        let (leaf, _) = LeafPlace::<T>::data(item);
        T::drop_leaf(&(*top_of_default::<T>(group)).data, leaf);
        bindings::config_item_put(item);
    }
}

/// # Safety
///
/// For configfs alone: `item` was made by [`make_leaf`], and this was its last reference.
unsafe extern "C" fn release_leaf<T: Tree>(item: *mut bindings::config_item) {
    // SAFETY: By this function's contract; made from a box.
    drop(unsafe { KBox::from_raw(item.cast::<LeafNode<T>>()) });
}
